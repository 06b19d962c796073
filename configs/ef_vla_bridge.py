"""EF-VLA on BridgeData V2, with the hyper-parameters of the paper's Tables 6 and 7.

Command   python train.py --config configs/ef_vla_bridge.py --data.root DATA --policy.clip-weights CLIP_FOLDER \
              --tokenizer.path CLIP_FOLDER --run-dir RUN
          CLIP_FOLDER: a local Hugging Face copy of openai/clip-vit-large-patch14.
Variants  tiny (CPU twin, random weights), b16, b32 (CLIP sizes of Figure 5), large (ef_vla_l)
          Ablations of the paper: lf_vla, lf_vla_cls, xattn, wo_clip_vision, wo_fe, wo_fl, ft_clip
          Published codes: otter_jax, otter_torch (actions and proprio not normalised, as theirs)
          Fine-tunes, with --init-from RUN of a pretrained policy: lora (adapters on CLIP's attention, 0.5 % of its
          parameters, all else in full), full (all but CLIP, at a third of the rate), tiny_lora
Cost      `full` trains 10,000 steps; `lora` as many as get_config. ft_clip keeps and differentiates CLIP's activations:
          about three times the FLOPs, by arithmetic; take two chips of 80 GB or --mesh.fsdp.
Chips     One 80 GB GPU or a v5e-8 holds it. By arithmetic, not measured: the forward pass of CLIP L/14 over 12
          steps of one camera costs 1.9 TFLOP a sample, so 40,000 steps of 64 take about 17 v5e chip-hours at 40 %
          of peak.
Loss      Mean absolute error in standard deviations of the targets (1 on the gripper); not yet measured at this
          size. `tiny` on the 25-episode sample falls from about 0.9 to below 0.6 in 40 steps.
Differs from the paper: one camera (Bridge has no wrist camera), targets and proprio are standardised per dataset
(`--policy.action-space.normalization none` is the paper's), the random crop of Table 7 is applied in training.
"""

import dataclasses

from data_pipelines.action_spaces import relative_pose
from data_pipelines.config import CropConfig, DataConfig, MixtureEntry
from vla_jax.config import RunConfig
from vla_jax.language.tokenizer import TokenizerConfig
from vla_jax.nn.lora import LoraConfig
from vla_jax.policies import ef_vla
from vla_jax.training.augmentation import ColorJitterConfig
from vla_jax.training.optimizer import OptimizerConfig

ACTION_SPACE = relative_pose.action_space(horizon=12, normalization="gaussian")
RAW_ACTION_SPACE = relative_pose.action_space(horizon=12, normalization="none")


def get_config() -> RunConfig:
    return _run("ef_vla_bridge", ef_vla.ef_vla(ACTION_SPACE))


def b16() -> RunConfig:
    return _run("ef_vla_bridge_b16", ef_vla.ef_vla(ACTION_SPACE, "b16"))


def b32() -> RunConfig:
    return _run("ef_vla_bridge_b32", ef_vla.ef_vla(ACTION_SPACE, "b32"))


def large() -> RunConfig:
    return _run("ef_vla_l_bridge", ef_vla.ef_vla_l(ACTION_SPACE))


def lf_vla() -> RunConfig:
    return _run("lf_vla_bridge", ef_vla.lf_vla(ACTION_SPACE))


def lf_vla_cls() -> RunConfig:
    return _run("lf_vla_cls_bridge", ef_vla.lf_vla_cls(ACTION_SPACE))


def xattn() -> RunConfig:
    return _run("ef_xattn_bridge", ef_vla.ef_xattn(ACTION_SPACE))


def wo_clip_vision() -> RunConfig:
    return _run("ef_wo_clip_vision_bridge", ef_vla.ef_wo_clip_vision(ACTION_SPACE))


def wo_fe() -> RunConfig:
    return _run("ef_wo_fe_bridge", ef_vla.ef_wo_fe(ACTION_SPACE))


def wo_fl() -> RunConfig:
    return _run("ef_wo_fl_bridge", ef_vla.ef_wo_fl(ACTION_SPACE))


def ft_clip() -> RunConfig:
    return _run("ef_ft_clip_bridge", ef_vla.ef_ft_clip(ACTION_SPACE))


def otter_jax() -> RunConfig:
    return _run("otter_jax_bridge", ef_vla.otter_jax(RAW_ACTION_SPACE))


def otter_torch() -> RunConfig:
    return _run("otter_torch_bridge", ef_vla.otter_torch(RAW_ACTION_SPACE))


def lora() -> RunConfig:
    return _with_adapters(get_config(), "ef_vla_bridge_lora", rank=16)


def full() -> RunConfig:
    config = get_config()
    optimizer = dataclasses.replace(config.optimizer, peak_rate=1e-4, warmup_steps=500)
    return dataclasses.replace(config, name="ef_vla_bridge_full", optimizer=optimizer, num_steps=10_000)


def tiny_lora() -> RunConfig:
    return _with_adapters(tiny(), "ef_vla_bridge_tiny_lora", rank=2)


def tiny() -> RunConfig:
    config = get_config()
    return dataclasses.replace(
        config,
        name="ef_vla_bridge_tiny",
        policy=ef_vla.tiny(dataclasses.replace(config.policy, action_space=_short_horizon())),
        optimizer=OptimizerConfig(peak_rate=3e-3, warmup_steps=10),
        compute_dtype="float32",
        ema_decay=0.95,
        num_steps=100,
        batch_size=8,
        log_every=1,
        checkpoint_every=20,
        allow_random_frozen=True,
    )


def _with_adapters(config: RunConfig, name: str, *, rank: int) -> RunConfig:
    """CLIP is adapted; everything but CLIP trains in full."""
    adapters = LoraConfig(
        targets=("clip/.*/attention/(query|value)",), rank=rank, alpha=2.0 * rank, trained=("(?!clip/).*",)
    )
    return dataclasses.replace(config, name=name, lora=adapters)


def _short_horizon():
    return dataclasses.replace(ACTION_SPACE, horizon=4)


def _run(name: str, policy: ef_vla.EfVlaConfig) -> RunConfig:
    return RunConfig(
        name=name,
        policy=dataclasses.replace(policy, cameras=("primary",)),
        data=DataConfig(root="data", mixture=(MixtureEntry(name="bridge_dataset"),), crop=CropConfig()),
        tokenizer=TokenizerConfig(),
        optimizer=OptimizerConfig(peak_rate=3e-4, warmup_steps=2_000, weight_decay=0.01, clip_norm=1.0),
        augmentation=ColorJitterConfig(),
        num_steps=40_000,
        batch_size=64,
        ema_decay=None,
    )
