"""The demo: an EF-VLA wiring trained from scratch on two embodiments of the tabletop environment.

Command   make demo, or by hand: python train.py --config configs/tabletop_ef_vla.py --data.root DATA --run-dir RUN
          DATA from: python -m data_pipelines demo --embodiment gantry --suite reach --image-size 64 --out DATA
          and the same with --embodiment arm.
Chips     None: 8 minutes on 2 CPU cores. Loss falls from 0.27 to 0.05.
Success   `reach`, 60 held-out trials of both robots, 1,080 training episodes each: 32 (95 %: 41 to 65 %); untrained 4;
          images blacked out 2; instructions shuffled among trials 11. One run.
Differs from EF-VLA: no pretrained CLIP is to be had without a download, so vision and text are small and train with
the rest; positions join Eq. 4's values, without which a picture's features do not say where they are.
"""

import dataclasses

from data_pipelines.action_spaces import relative_pose
from data_pipelines.config import DataConfig, MixtureEntry
from vla_jax.config import RunConfig
from vla_jax.encoders.clip import ClipConfig, ClipTextConfig
from vla_jax.encoders.projected_vit import ProjectedVitConfig
from vla_jax.encoders.vit import VitConfig
from vla_jax.fusion.early_fusion import EarlyFusionConfig
from vla_jax.fusion.pooling import AttentionPoolingConfig
from vla_jax.policies.ef_vla import EfVlaConfig, TrunkConfig
from vla_jax.training.optimizer import OptimizerConfig
from vla_jax.types import ActionSpace, Dimension


def get_config() -> RunConfig:
    width = 64
    policy = EfVlaConfig(
        action_space=_action_space(horizon=4),
        train_clip=True,
        clip=ClipConfig(
            vision=None,
            text=ClipTextConfig(width=width, num_layers=2, num_heads=4, mlp_width=128, vocab_size=512, remat="none"),
            projection_width=width,
        ),
        scratch_vision=ProjectedVitConfig(
            vit=VitConfig(
                width=width, num_layers=1, num_heads=2, mlp_width=128, patch_size=8, image_size=64, remat="none"
            ),
            out_width=width,
        ),
        cameras=("primary", "wrist"),
        window=1,
        fusion=EarlyFusionConfig(value_positions=True),
        image_pooling=AttentionPoolingConfig(out_width=128, num_heads=4, num_blocks=2, mlp_width=128),
        text_pooling=AttentionPoolingConfig(out_width=64, num_heads=4, num_blocks=1, mlp_width=128),
        trunk=TrunkConfig(num_layers=2, num_heads=8, mlp_width=512, dropout_rate=0.0),
    )
    return RunConfig(
        name="tabletop_ef_vla",
        policy=policy,
        data=DataConfig(
            root="data",
            mixture=(MixtureEntry(name="tabletop_gantry"), MixtureEntry(name="tabletop_arm")),
            crop=None,
        ),
        optimizer=OptimizerConfig(peak_rate=1e-3, warmup_steps=100),
        augmentation=None,
        compute_dtype="float32",
        ema_decay=0.99,
        num_steps=4_200,
        batch_size=64,
        log_every=50,
        checkpoint_every=1_000,
    )


def _action_space(horizon: int) -> ActionSpace:
    """Positions standardised, rotations as they are: these robots hardly turn, and a tiny deviation would blow up."""
    space = relative_pose.action_space(horizon, normalization="gaussian")

    def layout(dimensions: tuple[Dimension, ...]) -> tuple[Dimension, ...]:
        return tuple(dataclasses.replace(d, normalize=d.unit == "metre") for d in dimensions)

    return dataclasses.replace(space, dimensions=layout(space.dimensions), proprio=layout(space.proprio))


def tiny() -> RunConfig:
    return dataclasses.replace(get_config(), name="tabletop_ef_vla_tiny", num_steps=20, batch_size=8)
