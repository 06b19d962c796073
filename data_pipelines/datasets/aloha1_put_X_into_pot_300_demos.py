"""OpenVLA-OFT's fine-tuning sets on ALOHA, two ViperX 300 arms, 25 Hz: absolute joint angles, left arm first.

Only the builder of `aloha1_put_X_into_pot_300_demos` is published; the others are read as OpenVLA-OFT's code does.
"""
# ruff: noqa: N999 - the published name

import dataclasses

from data_pipelines.conventions.bimanual import two_arms
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="aloha1_put_X_into_pot_300_demos",
    version="1.0.0",
    robot="ALOHA: two ViperX 300",
    cameras={
        "primary": "observation/image",
        "secondary": "observation/low_cam_image",
        "wrist": "observation/right_wrist_image",
        "left_wrist": "observation/left_wrist_image",
    },
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=25.0,
    action="bimanual_joints",
    proprio="joints",
    gripper="state and action: 1 open, 0 closed, normalised by the recording code",
    unknown=("How the 300 demonstrations are split.",),
    source="OpenVLA-OFT (arXiv 2502.19645): RLDS builder, ALOHA.md; ACT (arXiv 2304.13705)",
)
_READ_BY_CODE = {slot: key for slot, key in SPEC.cameras.items() if slot != "secondary"}
ALIASES = tuple(
    dataclasses.replace(
        SPEC, name=name, cameras=_READ_BY_CODE, is_verified=False, unknown=("The feature tree; the splits.",)
    )
    for name in ("aloha1_fold_shorts_20_demos", "aloha1_fold_shirt_30_demos", "aloha1_scoop_X_into_bowl_45_demos")
)


def standardize(raw: Trajectory) -> Trajectory:
    return two_arms(raw["observation/state"], raw["action"])
