"""Octo, pretrained on Open X-Embodiment: its mixture, augmentations, 300,000 steps; the small model, base as a variant.

Command   python train.py --config configs/octo_oxe.py --data.root OXE --data.cache CACHE --run-dir RUN \
              --policy.clip-weights CLIP_FOLDER --tokenizer.path CLIP_FOLDER [--mesh.data 8 ...]
          CLIP_FOLDER: a local Hugging Face copy of openai/clip-vit-base-patch32, whose text half is read.
Variants  base (octo_base), finetune (all but CLIP, with --init-from RUN, on the data named there), lora (likewise,
          adapters on the transformer and the head in full), tiny (CPU twin on bridge_dataset), tiny_lora
Mixture   Octo's own oxe_magic_soup, weighed by size.
Chips     By arithmetic, not measured: 42 GFLOP a sample forward with its 20 steps of diffusion, 0.15 TFLOP with the
          backward pass and recomputation (base: 139 GFLOP, 0.51 TFLOP); 300,000 steps of 512 take about 16 H100-hours
          at 40 % of peak, `base` 55. (Published: 14 hours on a TPU v4-128 at batches of 2048.)
Loss      Squared error of the noise, summed over the dimensions of an action; not yet measured at this size.
Differs from the paper: a cosine takes the place of the inverse square root of the rate's schedule; no goals, and so
steps without an instruction are not sampled; see `policies/octo.py`.
"""

import dataclasses

from data_pipelines.action_spaces import delta_pose
from data_pipelines.config import DataConfig, MixtureEntry, TaskConfig
from data_pipelines.mixtures import mixture
from vla_jax import augmentations
from vla_jax.config import RunConfig
from vla_jax.nn.lora import LoraConfig
from vla_jax.policies import octo
from vla_jax.training.optimizer import OptimizerConfig

ACTION_SPACE = delta_pose.action_space(horizon=4, normalization="gaussian")
BLOCKS = "trunk/blocks/(attention|mlp)/.*"
REST = "(?!clip/|trunk/).*"


def get_config() -> RunConfig:
    config = RunConfig(
        name="octo_oxe",
        policy=octo.octo_small(ACTION_SPACE),
        data=DataConfig(root="data", mixture=mixture("oxe_magic_soup_octo"), weigh_by_size=True, skip_unlabeled=True),
        optimizer=OptimizerConfig(peak_rate=3e-4, warmup_steps=2_000, weight_decay=0.1, clip_norm=1.0),
        num_steps=300_000,
        batch_size=512,
        ema_decay=None,
    )
    config = augmentations.named("octo").applied(config)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, task=TaskConfig()))


def base() -> RunConfig:
    return dataclasses.replace(get_config(), name="octo_base_oxe", policy=octo.octo_base(ACTION_SPACE))


def finetune() -> RunConfig:
    config = get_config()
    optimizer = dataclasses.replace(config.optimizer, weight_decay=0.01)
    return dataclasses.replace(
        config, name="octo_finetune", data=_one_dataset(config), optimizer=optimizer, num_steps=50_000, batch_size=256
    )


def lora() -> RunConfig:
    adapters = LoraConfig(targets=(BLOCKS,), rank=16, alpha=32.0, trained=(REST,))
    return dataclasses.replace(finetune(), name="octo_lora", lora=adapters)


def tiny() -> RunConfig:
    config = get_config()
    return dataclasses.replace(
        config,
        name="octo_oxe_tiny",
        policy=octo.tiny(config.policy),
        data=_one_dataset(config),
        optimizer=dataclasses.replace(config.optimizer, peak_rate=3e-3, warmup_steps=10, weight_decay=0.01),
        compute_dtype="float32",
        num_steps=100,
        batch_size=8,
        log_every=1,
        checkpoint_every=20,
        allow_random_frozen=True,
    )


def tiny_lora() -> RunConfig:
    adapters = LoraConfig(targets=(BLOCKS,), rank=2, alpha=4.0, trained=(REST,))
    return dataclasses.replace(tiny(), name="octo_tiny_lora", lora=adapters)


def _one_dataset(config: RunConfig) -> DataConfig:
    data = dataclasses.replace(config.data, mixture=(MixtureEntry(name="bridge_dataset"),), weigh_by_size=False)
    return dataclasses.replace(data, skip_unlabeled=False)
