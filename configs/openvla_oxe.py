"""OpenVLA, pretrained on Open X-Embodiment as published: everything trains, rate 2e-5 throughout, batches of 2048.

Command   python train.py --config configs/openvla_oxe.py --data.root OXE --data.cache CACHE --run-dir RUN \
              --policy.vlm-weights PRISMATIC_FOLDER --tokenizer.path LLAMA_FOLDER --tokenizer.pad-token '<unk>' \
              [--mesh.data 16 --mesh.fsdp 16 ...]
          PRISMATIC_FOLDER: a local Hugging Face copy of OpenVLA's format (openvla/openvla-7b, or the Prismatic VLM
          that it started from in that format); LLAMA_FOLDER: the folder of its tokenizer.json.
Variants  frozen_vision (the paper's ablation), finetune (all parameters) and lora (rank 32 on every linear layer), both
          on the data named there, with --init-from RUN or released weights; tiny (CPU twin on bridge_dataset),
          tiny_lora
Mixture   OpenVLA's oxe_magic_soup_plus_minus, without DROID, as in the last third of the published run.
Chips     By arithmetic, not measured: 4.5 TFLOP a sample forward, 16.9 with the backward pass and recomputation;
          295,000 steps (those of the release, recalled and not checked) of 2048 take about 7,200 H100-hours at 40 % of
          peak (published: 21,500 A100-hours). Parameters, gradients, both moments: 121 GB.
Loss      Cross-entropy over the action's tokens and the end, in nats; not yet measured at this size.
Differs from the paper: DROID is left out from the start; see `policies/openvla.py`.
"""

import dataclasses

from data_pipelines.action_spaces import delta_pose
from data_pipelines.config import DataConfig, MixtureEntry
from data_pipelines.mixtures import mixture
from vla_jax import augmentations
from vla_jax.config import RunConfig
from vla_jax.nn.lora import LoraConfig
from vla_jax.policies import openvla
from vla_jax.training.optimizer import OptimizerConfig

ACTION_SPACE = delta_pose.action_space(horizon=1, normalization="quantile")
BLOCKS = "vlm/(language|vision/(dino|siglip))/stack/blocks/(attention|mlp)/.*"
"""Linear layers of the three transformers."""


def get_config() -> RunConfig:
    config = RunConfig(
        name="openvla_oxe",
        policy=openvla.openvla(ACTION_SPACE),
        data=DataConfig(root="data", mixture=mixture("oxe_magic_soup_plus_minus"), weigh_by_size=True),
        optimizer=OptimizerConfig(peak_rate=2e-5, final_rate=2e-5, warmup_steps=0, weight_decay=0.0),
        num_steps=295_000,
        batch_size=2048,
        ema_decay=None,
    )
    return augmentations.named("openvla").applied(config)


def frozen_vision() -> RunConfig:
    config = get_config()
    policy = dataclasses.replace(config.policy, train_vision=False)
    return dataclasses.replace(config, name="openvla_oxe_frozen_vision", policy=policy)


def finetune() -> RunConfig:
    config = get_config()
    return dataclasses.replace(
        config, name="openvla_finetune", data=_one_dataset(config), num_steps=50_000, batch_size=64
    )


def lora() -> RunConfig:
    """As published: rank 32, alpha 16, rate 5e-4."""
    config = finetune()
    optimizer = dataclasses.replace(config.optimizer, peak_rate=5e-4, final_rate=5e-4)
    return dataclasses.replace(
        config, name="openvla_lora", optimizer=optimizer, lora=LoraConfig(targets=(BLOCKS,), rank=32, alpha=16.0)
    )


def tiny() -> RunConfig:
    config = get_config()
    return dataclasses.replace(
        config,
        name="openvla_oxe_tiny",
        policy=openvla.tiny(config.policy),
        data=_one_dataset(config),
        optimizer=dataclasses.replace(config.optimizer, peak_rate=1e-3, final_rate=1e-3, warmup_steps=10),
        compute_dtype="float32",
        num_steps=100,
        batch_size=8,
        log_every=1,
        checkpoint_every=20,
        allow_random_frozen=True,
    )


def tiny_lora() -> RunConfig:
    adapters = LoraConfig(targets=(BLOCKS,), rank=2, alpha=1.0)
    return dataclasses.replace(tiny(), name="openvla_tiny_lora", lora=adapters)


def _one_dataset(config: RunConfig) -> DataConfig:
    return dataclasses.replace(config.data, mixture=(MixtureEntry(name="bridge_dataset"),), weigh_by_size=False)
