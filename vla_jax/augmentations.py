"""Augmentation as the papers published it, by name: what a recipe puts into its data, colours and policy at once.

config = augmentations.named("octo").applied(config)
"""

import dataclasses
from typing import Any

from data_pipelines.config import CropConfig, RotationConfig, TaskConfig
from vla_jax.config import RunConfig
from vla_jax.training.augmentation import ColorJitterConfig
from vla_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    color: ColorJitterConfig
    crop: CropConfig | None = None
    rotation: RotationConfig | None = None
    task: TaskConfig = TaskConfig()
    proprio_noise: float = 0.0
    """Standard deviation of the noise on normalised proprio; the policy adds it."""
    source: str

    def applied(self, config: RunConfig) -> RunConfig:
        data = dataclasses.replace(config.data, crop=self.crop, rotation=self.rotation, task=self.task)
        policy = config.policy
        if self.proprio_noise:
            if not hasattr(policy, "proprio_noise"):
                raise InputError(f"augmentation: {type(policy).__name__} has no proprio_noise, the preset has")
            change: dict[str, Any] = {"proprio_noise": self.proprio_noise}
            policy = dataclasses.replace(policy, **change)
        return dataclasses.replace(config, data=data, augmentation=self.color, policy=policy)


PRESETS = {
    "octo": Augmentation(
        color=ColorJitterConfig(
            shift=0.1, contrast=(0.9, 1.1), saturation=(0.9, 1.1), hue=0.05, slots=("primary", "wrist")
        ),
        crop=CropConfig(scale=(0.8, 1.0), ratio=(0.9, 1.1), slots=("primary",)),
        task=TaskConfig(keep_goal=0.5),
        source="octo scripts/configs/octo_pretrain_config.py; delete_task_conditioning of scripts/configs/config.py",
    ),
    "openvla": Augmentation(
        color=ColorJitterConfig(shift=0.2, contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=0.05),
        crop=CropConfig(scale=(0.9, 0.9), ratio=(1.0, 1.0)),
        source="openvla prismatic/vla/datasets/datasets.py, where image_aug is set",
    ),
    "ef_vla": Augmentation(
        color=ColorJitterConfig(shift=0.2, contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=0.1),
        crop=CropConfig(scale=(0.8, 1.0), ratio=(0.9, 1.1)),
        proprio_noise=0.01,
        source="EF-VLA Table 7; scale of the crop and noise from otter_jax, which colours the primary camera alone and "
        "did not train with the crop",
    ),
    "dfa_vla": Augmentation(
        color=ColorJitterConfig(shift=0.0, brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(1.0, 1.0), hue=0.0),
        crop=CropConfig(scale=(0.9, 0.9), ratio=(1.0, 1.0)),
        rotation=RotationConfig(degrees=5.0),
        source="DFA-VLA 4.1 names crop and resize, small rotation, brightness and contrast, and no range: crop and "
        "contrast as OpenVLA's, rotation of 5 degrees and brightness by a factor are ours",
    ),
}


def named(name: str) -> Augmentation:
    if name not in PRESETS:
        raise InputError(f"augmentation {name!r}: the presets are {sorted(PRESETS)}")
    return PRESETS[name]
