"""DFA-VLA (Model 5) on Open X-Embodiment, its ablations, and its fine-tunes on LIBERO.

Command   python -m vla_jax boxes OXE/bridge_dataset/1.0.0 --sam SAM_FOLDER --cache CACHE, and of every other dataset
          python train.py --config configs/dfa_vla_oxe.py --data.root OXE --data.cache CACHE --run-dir RUN \
              --policy.encoder-weights DINOV2_FOLDER --policy.language-weights LLAMA_FOLDER \
              --tokenizer.path LLAMA_FOLDER --mesh.data 16 --mesh.fsdp 16
          then python train.py --config configs/dfa_vla_oxe.py:finetune_lora --data.root LIBERO --data.cache CACHE \
              --tokenizer.path LLAMA_FOLDER --init-from RUN --run-dir TUNED
          Local Hugging Face copies of facebook/dinov2-base, meta-llama/Llama-2-7b-hf, facebook/sam-vit-huge; Models 1
          and 3 have google/vit-base-patch16-224-in21k for DINOv2. `--policy.boxes.missing grid` does without SAM.
Variants  model1 .. model4 (Table 3), representation (what BridgeData V2 is used for in the paper: encoder and
          projection train, the language model does not), finetune_lora (LoRA on all linear layers of Llama, 4-bit
          and 8-bit states are not used), finetune_full, tiny (CPU twin on bridge_dataset), tiny_lora
Sweep     Table 2 is configs/dfa_vla_sweep.py.
Chips     By arithmetic, not measured: 0.77 TFLOP a sample forward, three times that a step, and the forward pass once
          more for remat: 50,000 steps of 256 are 4e19 FLOP, about 140 v5e chip-hours at 40 % of peak. Parameters,
          gradients and Adam's moments are 108 GB in float32: 16 chips of 16 GB at least. LoRA: one 80 GB GPU.
INT8      eval.py --checkpoint TUNED --open-loop LIBERO/libero_spatial_no_noops/1.0.0 --int8 dynamic
Loss      Huber of actions in -1..1 (by quantiles), plus half of L_align and of L_mask, whose least value is log 5; not
          yet measured at this size.
Differs   from the paper, which states neither optimiser nor batch: OpenVLA's recipe for LIBERO (LoRA of rank 32, rate
          5e-4, batches of 128, 50,000 steps); fine-tuned in full at 2e-5. One action a step (horizon 1). L_align is
          in_batch, for nothing names the box of the task in these data.
"""

import dataclasses

from data_pipelines.action_spaces import delta_pose
from data_pipelines.config import DataConfig, MixtureEntry
from data_pipelines.mixtures import mixture
from vla_jax import augmentations
from vla_jax.config import RunConfig
from vla_jax.fusion.contrast import ContrastConfig
from vla_jax.nn.lora import LoraConfig
from vla_jax.policies import dfa_vla
from vla_jax.training.optimizer import OptimizerConfig, RateFactor

ACTION_SPACE = delta_pose.action_space(horizon=1, normalization="quantile")
LINEARS = r"language/stack/blocks/(attention/(query|key|value|out)|mlp/(gate|up|down))"
"""All seven of each block of Llama."""


def get_config() -> RunConfig:
    return _run("dfa_vla_oxe", dfa_vla.dfa_vla(ACTION_SPACE))


def model1() -> RunConfig:
    return _run("dfa_model1_oxe", dfa_vla.dfa_model1(ACTION_SPACE))


def model2() -> RunConfig:
    return _run("dfa_model2_oxe", dfa_vla.dfa_model2(ACTION_SPACE))


def model3() -> RunConfig:
    return _run("dfa_model3_oxe", dfa_vla.dfa_model3(ACTION_SPACE))


def model4() -> RunConfig:
    return _run("dfa_model4_oxe", dfa_vla.dfa_model4(ACTION_SPACE))


def representation() -> RunConfig:
    policy = dataclasses.replace(get_config().policy, frozen=("language",))
    config = _run("dfa_vla_representation", policy)
    data = dataclasses.replace(config.data, mixture=(MixtureEntry(name="bridge_dataset"),))
    return dataclasses.replace(config, data=data)


def finetune_lora() -> RunConfig:
    return _with_adapters(_libero("dfa_vla_libero_lora", peak_rate=5e-4), rank=32)


def finetune_full() -> RunConfig:
    return _libero("dfa_vla_libero", peak_rate=2e-5)


def tiny() -> RunConfig:
    config = get_config()
    space = dataclasses.replace(ACTION_SPACE, horizon=2)
    data = dataclasses.replace(config.data, mixture=(MixtureEntry(name="bridge_dataset"),), weigh_by_size=False)
    return dataclasses.replace(
        config,
        name="dfa_vla_oxe_tiny",
        policy=dfa_vla.tiny(dataclasses.replace(config.policy, action_space=space)),
        data=data,
        optimizer=OptimizerConfig(peak_rate=3e-3, warmup_steps=10),
        compute_dtype="float32",
        ema_decay=0.95,
        num_steps=100,
        batch_size=8,
        log_every=1,
        checkpoint_every=20,
        allow_random_frozen=True,
    )


def tiny_lora() -> RunConfig:
    return dataclasses.replace(_with_adapters(tiny(), rank=2), name="dfa_vla_oxe_tiny_lora")


def _run(name: str, policy: dfa_vla.DfaVlaConfig) -> RunConfig:
    if policy.contrast is not None:
        policy = dataclasses.replace(policy, contrast=ContrastConfig(positive="in_batch"))
    config = RunConfig(
        name=name,
        policy=policy,
        data=DataConfig(root="data", mixture=mixture("bridge_rt_1"), weigh_by_size=True),
        optimizer=OptimizerConfig(
            peak_rate=1e-4,
            warmup_steps=1_000,
            weight_decay=0.0,
            rates=_released_parts_slower(policy),
        ),
        num_steps=50_000,
        batch_size=256,
        ema_decay=None,
    )
    return augmentations.named("dfa_vla").applied(config)


def _released_parts_slower(policy: dfa_vla.DfaVlaConfig) -> tuple[RateFactor, ...]:
    """2e-5, the rate that OpenVLA was pretrained with, beside 1e-4 of what begins from nothing."""
    return tuple(
        RateFactor(pattern=f"{part}/.*", factor=0.2) for part in ("encoder", "language") if part not in policy.frozen
    )


def _libero(name: str, *, peak_rate: float) -> RunConfig:
    config = _run(name, dfa_vla.dfa_vla(ACTION_SPACE))
    data = dataclasses.replace(config.data, mixture=(MixtureEntry(name="libero_spatial_no_noops"),))
    optimizer = OptimizerConfig(peak_rate=peak_rate, warmup_steps=0, weight_decay=0.0)
    return dataclasses.replace(config, data=data, optimizer=optimizer, batch_size=128)


def _with_adapters(config: RunConfig, *, rank: int) -> RunConfig:
    """Llama is adapted, DINOv2 stays as it is; all that lies between them and behind them trains in full."""
    adapters = LoraConfig(targets=(LINEARS,), rank=rank, alpha=16.0, trained=("(?!language/|encoder/).*",))
    optimizer = dataclasses.replace(config.optimizer, rates=())
    return dataclasses.replace(config, lora=adapters, optimizer=optimizer)
