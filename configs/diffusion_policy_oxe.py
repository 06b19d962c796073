"""Diffusion Policy on Open X-Embodiment, told the task in words; the original, which is not, as a variant.

Command   python train.py --config configs/diffusion_policy_oxe.py --data.root OXE --data.cache CACHE --run-dir RUN \
              --policy.clip-weights CLIP_FOLDER --tokenizer.path CLIP_FOLDER [--mesh.data 8 ...]
          CLIP_FOLDER: a local Hugging Face copy of openai/clip-vit-base-patch32, whose text half is read.
Variants  original (reads no words, so no CLIP_FOLDER either: for one task), finetune (with --init-from RUN, on the data
          named there), tiny (CPU twin on bridge_dataset), tiny_original
Mixture   OpenVLA's bridge_rt_1: BridgeData V2 and RT-1 by their sizes.
Chips     By arithmetic, not measured: 40 GFLOP a sample forward with its 10 steps of DDIM, 52 with the backward pass;
          200,000 steps of 256 take about 2 H100-hours at 40 % of peak: reading the pictures costs more.
Loss      Squared error of the noise; not yet measured at this size.
Act       Chunks of 16, of which 8 are carried out: `ExecutionConfig(steps=8, ensemble=False)`.
Differs from the paper, which trains a policy a task for 600 epochs: steps and batches are ours; the moving average has
a constant decay of 0.9999 (published: it grows to that), the crop of 0.9 of each side is resized by the pipeline.
"""

import dataclasses

from data_pipelines.action_spaces import delta_pose
from data_pipelines.config import CropConfig, DataConfig, MixtureEntry
from data_pipelines.mixtures import mixture
from vla_jax.config import RunConfig
from vla_jax.policies import diffusion_policy
from vla_jax.training.optimizer import OptimizerConfig

ACTION_SPACE = delta_pose.action_space(horizon=16, normalization="quantile")


def get_config() -> RunConfig:
    crop = CropConfig(scale=(0.81, 0.81), ratio=(1.0, 1.0), slots=("primary", "wrist"))
    return RunConfig(
        name="diffusion_policy_oxe",
        policy=diffusion_policy.diffusion_policy_text(ACTION_SPACE),
        data=DataConfig(root="data", mixture=mixture("bridge_rt_1"), weigh_by_size=True, crop=crop),
        optimizer=OptimizerConfig(peak_rate=1e-4, warmup_steps=500, beta1=0.95, weight_decay=1e-6, clip_norm=None),
        augmentation=None,
        num_steps=200_000,
        batch_size=256,
        ema_decay=0.9999,
    )


def original() -> RunConfig:
    return dataclasses.replace(
        get_config(), name="diffusion_policy_original", policy=diffusion_policy.diffusion_policy(ACTION_SPACE)
    )


def finetune() -> RunConfig:
    config = get_config()
    return dataclasses.replace(
        config, name="diffusion_policy_finetune", data=_one_dataset(config), num_steps=50_000, batch_size=64
    )


def tiny() -> RunConfig:
    return _tiny(get_config())


def tiny_original() -> RunConfig:
    return _tiny(original())


def _tiny(config: RunConfig) -> RunConfig:
    return dataclasses.replace(
        config,
        name=f"{config.name}_tiny",
        policy=diffusion_policy.tiny(config.policy),
        data=_one_dataset(config),
        optimizer=dataclasses.replace(config.optimizer, peak_rate=3e-3, warmup_steps=10),
        compute_dtype="float32",
        ema_decay=0.95,
        num_steps=100,
        batch_size=8,
        log_every=1,
        checkpoint_every=20,
        allow_random_frozen=True,
    )


def _one_dataset(config: RunConfig) -> DataConfig:
    return dataclasses.replace(config.data, mixture=(MixtureEntry(name="bridge_dataset"),), weigh_by_size=False)
