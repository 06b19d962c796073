"""EF-VLA-OXE: pretraining on Open X-Embodiment, the paper's 60,000 steps (section 4.4), larger model as a variant.

Command   python train.py --config configs/ef_vla_oxe.py --data.root OXE --data.cache CACHE --run-dir RUN \
              --policy.clip-weights CLIP_FOLDER --tokenizer.path CLIP_FOLDER [--batch-size 1024 --mesh.data 16 ...]
          The same line on every host of a pod. OXE holds NAME/VERSION of each dataset of the mixture in TFDS
          layout; CLIP_FOLDER is a local Hugging Face copy of openai/clip-vit-large-patch14.
Variants  tiny (CPU twin on bridge_dataset), large (ef_vla_l), magic_soup, otter_jax, otter_torch, lf_vla; fine-tunes of
          what this gives are variants of configs/ef_vla_bridge.py with --init-from RUN
Mixture   OpenVLA's bridge_rt_1: BridgeData V2 and RT-1 by their sizes. `magic_soup`: OpenVLA's oxe_magic_soup without
          the datasets that lack a measured pose or gripper, as the paper filters it; the others keep their weights.
Chips     By arithmetic, not measured: one camera at L/14 costs 1.9 TFLOP a sample forward, so 60,000 steps of 64 take
          about 26 v5e chip-hours at 40 % of peak; a batch of 1024, sixteen times that.
Loss      Mean absolute error in standard deviations of the targets; not yet measured at this size.
"""

import dataclasses

from configs import ef_vla_bridge
from data_pipelines.mixtures import mixture
from vla_jax.config import RunConfig
from vla_jax.policies import ef_vla

WITHOUT_POSE_OR_GRIPPER = (
    "jaco_play",
    "berkeley_cable_routing",
    "roboturk",
    "toto",
    "language_table",
    "nyu_franka_play_dataset_converted_externally_to_rlds",
    "ucsd_kitchen_dataset_converted_externally_to_rlds",
    "cmu_stretch",
)
"""Datasets of oxe_magic_soup that `relative_pose` refuses."""


def get_config() -> RunConfig:
    config = ef_vla_bridge.get_config()
    data = dataclasses.replace(config.data, mixture=mixture("bridge_rt_1"), weigh_by_size=True)
    return dataclasses.replace(config, name="ef_vla_oxe", data=data, num_steps=60_000)


def magic_soup() -> RunConfig:
    config = get_config()
    entries = tuple(entry for entry in mixture("oxe_magic_soup") if entry.name not in WITHOUT_POSE_OR_GRIPPER)
    data = dataclasses.replace(config.data, mixture=entries)
    return dataclasses.replace(config, name="ef_vla_oxe_magic_soup", data=data)


def large() -> RunConfig:
    config = get_config()
    policy = dataclasses.replace(ef_vla.ef_vla_l(config.action_space), cameras=config.policy.cameras)
    return dataclasses.replace(config, name="ef_vla_l_oxe", policy=policy)


def otter_jax() -> RunConfig:
    return dataclasses.replace(get_config(), name="otter_jax_oxe", policy=ef_vla_bridge.otter_jax().policy)


def otter_torch() -> RunConfig:
    return dataclasses.replace(get_config(), name="otter_torch_oxe", policy=ef_vla_bridge.otter_torch().policy)


def lf_vla() -> RunConfig:
    return dataclasses.replace(get_config(), name="lf_vla_oxe", policy=ef_vla_bridge.lf_vla().policy)


def tiny() -> RunConfig:
    return dataclasses.replace(ef_vla_bridge.tiny(), name="ef_vla_oxe_tiny")
