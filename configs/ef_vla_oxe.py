"""EF-VLA-OXE: pretraining on Open X-Embodiment, the paper's 60,000 steps (section 4.4), larger model as a variant.

Command   python train.py --config configs/ef_vla_oxe.py --data.root OXE --data.cache CACHE --run-dir RUN \
              --policy.clip-weights CLIP_FOLDER --tokenizer.path CLIP_FOLDER [--batch-size 1024 --mesh.data 16 ...]
          The same line on every host of a pod. OXE holds bridge_dataset/1.0.0 and fractal20220817_data/0.1.0 in
          TFDS layout; CLIP_FOLDER is a local Hugging Face copy of openai/clip-vit-large-patch14.
Variants  tiny (CPU twin on bridge_dataset), large (ef_vla_l)
Mixture   OpenVLA's bridge_rt_1 weights: BridgeData V2 1.0, RT-1 0.54087, times the datasets' sizes. Further datasets
          join with their file in data_pipelines/datasets; the paper's full mixture is oxe_magic_soup.
Chips     By arithmetic, not measured: one camera at L/14 costs 1.9 TFLOP a sample forward, so 60,000 steps of 64 take
          about 26 v5e chip-hours at 40 % of peak; a batch of 1024, sixteen times that.
Loss      Mean absolute error in standard deviations of the targets; not yet measured at this size.
"""

import dataclasses

from configs import ef_vla_bridge
from data_pipelines.config import MixtureEntry
from vla_jax.config import RunConfig
from vla_jax.policies import ef_vla

BRIDGE_RT_1 = (
    MixtureEntry(name="bridge_dataset", weight=1.0),
    MixtureEntry(name="fractal20220817_data", weight=0.54087),
)


def get_config() -> RunConfig:
    config = ef_vla_bridge.get_config()
    data = dataclasses.replace(config.data, mixture=BRIDGE_RT_1, weigh_by_size=True)
    return dataclasses.replace(config, name="ef_vla_oxe", data=data, num_steps=60_000)


def large() -> RunConfig:
    config = get_config()
    policy = dataclasses.replace(ef_vla.ef_vla_l(config.action_space), cameras=config.policy.cameras)
    return dataclasses.replace(config, name="ef_vla_l_oxe", policy=policy)


def tiny() -> RunConfig:
    return dataclasses.replace(ef_vla_bridge.tiny(), name="ef_vla_oxe_tiny")
