"""QwenVLA-OFT, the baseline of DeepVision-VLA, pretrained on Open X-Embodiment and DROID.

Command   python train.py --config configs/qwenvla_oft_oxe.py --data.root OXE --data.cache CACHE --run-dir RUN \
              --policy.vlm-weights QWEN_FOLDER --tokenizer.path QWEN_FOLDER [--mesh.data 8 --mesh.fsdp 4 ...]
          QWEN_FOLDER: a local Hugging Face copy of Qwen/Qwen3-VL-4B-Instruct.
Variants  finetune (all parameters, with --init-from RUN, on the data named there), lora (likewise, adapters on both
          transformers and the head in full), tiny (CPU twin on bridge_dataset), tiny_lora
Mixture   OpenVLA's oxe_magic_soup_plus, DROID among it. The paper's has RoboMIND, too, which is no RLDS release.
Chips     By arithmetic, not measured: 1.00 TFLOP a sample forward, 4 with the backward pass and recomputation; one
          pass over 400,000 trajectories of about 100 steps in batches of 128 (312,500 steps, 16 a GPU on eight as in
          StarVLA) takes about 110 H100-hours at 40 % of peak. Parameters, gradients, both moments: 71 GB.
Loss      Mean absolute error in shares of the 1st to 99th percentile (1 on the gripper); not yet measured at this size.
Differs from the paper, which states no rates, batch or horizon: those are StarVLA's for QwenOFT (VLM 1e-5, head 1e-4,
cosine to 1e-6 of the former, 5,000 steps of warm-up, horizon 8). No weight decay is stated; there is none.
"""

import dataclasses

from data_pipelines.action_spaces import delta_pose
from data_pipelines.config import CropConfig, DataConfig, MixtureEntry
from data_pipelines.mixtures import mixture
from vla_jax.config import RunConfig
from vla_jax.nn.lora import LoraConfig
from vla_jax.policies import qwenvla_oft
from vla_jax.training.augmentation import ColorJitterConfig
from vla_jax.training.optimizer import OptimizerConfig, RateFactor

ACTION_SPACE = delta_pose.action_space(horizon=8, normalization="quantile")
FRESH = "head/.*"
"""What no release has weights for."""


def get_config() -> RunConfig:
    return RunConfig(
        name="qwenvla_oft_oxe",
        policy=qwenvla_oft.qwenvla_oft(ACTION_SPACE),
        data=DataConfig(root="data", mixture=mixture("oxe_magic_soup_plus"), weigh_by_size=True, crop=CropConfig()),
        optimizer=OptimizerConfig(
            peak_rate=1e-5,
            warmup_steps=5_000,
            final_rate=1e-6,
            beta2=0.95,
            weight_decay=0.0,
            rates=(RateFactor(pattern=FRESH, factor=10.0),),
        ),
        augmentation=ColorJitterConfig(),
        num_steps=312_500,
        batch_size=128,
        ema_decay=None,
    )


def finetune() -> RunConfig:
    config = get_config()
    optimizer = dataclasses.replace(config.optimizer, warmup_steps=1_000)
    return dataclasses.replace(
        config, name="qwenvla_oft_finetune", data=_one_dataset(config), optimizer=optimizer, num_steps=30_000
    )


def lora() -> RunConfig:
    config = finetune()
    optimizer = dataclasses.replace(config.optimizer, peak_rate=1e-4, final_rate=1e-5, rates=())
    return dataclasses.replace(
        config, name="qwenvla_oft_lora", optimizer=optimizer, lora=_adapters(rank=32), batch_size=64
    )


def tiny() -> RunConfig:
    config = get_config()
    return dataclasses.replace(
        config,
        name="qwenvla_oft_oxe_tiny",
        policy=qwenvla_oft.tiny(config.policy),
        data=_one_dataset(config),
        optimizer=dataclasses.replace(config.optimizer, peak_rate=1e-3, warmup_steps=10),
        compute_dtype="float32",
        num_steps=100,
        batch_size=8,
        log_every=1,
        checkpoint_every=20,
    )


def tiny_lora() -> RunConfig:
    config = tiny()
    optimizer = dataclasses.replace(config.optimizer, rates=())
    return dataclasses.replace(config, name="qwenvla_oft_tiny_lora", optimizer=optimizer, lora=_adapters(rank=2))


def _one_dataset(config: RunConfig) -> DataConfig:
    mixture = (MixtureEntry(name="bridge_dataset"),)
    return dataclasses.replace(config.data, mixture=mixture, weigh_by_size=False)


def _adapters(*, rank: int) -> LoraConfig:
    """On every linear layer of both transformers' blocks."""
    blocks = "vlm/(language|vision/vit)/stack/blocks/(attention|mlp)/.*"
    return LoraConfig(targets=(blocks,), rank=rank, alpha=float(rank), trained=(FRESH,))
