"""The demo: EF-VLA's wiring trained from scratch on two embodiments of the tabletop environment.

Command   make demo, or by hand: python train.py --config configs/tabletop_ef_vla.py --data.root DATA --run-dir RUN
Data      python -m data_pipelines demo --embodiment gantry --image-size 64 --episodes 2000 --out DATA
          and the same with --embodiment arm; suite `reach` is the default.
Chips     None: 6 minutes on 2 CPU cores. Loss falls from 0.27 to 0.04.
Success   On held-out initial states of both robots: docs/benchmarks.md.

`long`    For an accelerator, or a night on a CPU. Data with --suite reach,object,spatial,goal,long --image-size 96
          --episodes 20000; then eval.py --env tabletop:object and tabletop:unseen with --trials 200. Not yet run.
"""

import dataclasses

from data_pipelines.action_spaces import relative_pose
from data_pipelines.config import DataConfig, MixtureEntry
from vla_jax.config import RunConfig
from vla_jax.policies.ef_vla import ef_vla_scratch
from vla_jax.training.optimizer import OptimizerConfig
from vla_jax.types import ActionSpace, Dimension


def get_config() -> RunConfig:
    return RunConfig(
        name="tabletop_ef_vla",
        policy=ef_vla_scratch(_action_space(horizon=4)),
        data=DataConfig(
            root="data",
            mixture=(MixtureEntry(name="tabletop_gantry"), MixtureEntry(name="tabletop_arm")),
            crop=None,
        ),
        optimizer=OptimizerConfig(peak_rate=1e-3, warmup_steps=100),
        augmentation=None,
        compute_dtype="float32",
        ema_decay=0.99,
        num_steps=6_000,
        batch_size=64,
        log_every=50,
        checkpoint_every=1_000,
    )


def long() -> RunConfig:
    return dataclasses.replace(
        get_config(),
        name="tabletop_ef_vla_long",
        policy=ef_vla_scratch(_action_space(horizon=8), image_size=96, width=128, num_layers=2),
        optimizer=OptimizerConfig(peak_rate=5e-4, warmup_steps=1_000),
        ema_decay=0.999,
        num_steps=40_000,
        batch_size=128,
        checkpoint_every=5_000,
    )


def tiny() -> RunConfig:
    return dataclasses.replace(get_config(), name="tabletop_ef_vla_tiny", num_steps=20, batch_size=8)


def _action_space(horizon: int) -> ActionSpace:
    """Positions standardised, rotations as they are: these robots hardly turn, and a tiny deviation would blow up."""
    space = relative_pose.action_space(horizon, normalization="gaussian")

    def layout(dimensions: tuple[Dimension, ...]) -> tuple[Dimension, ...]:
        return tuple(dataclasses.replace(d, normalize=d.unit == "metre") for d in dimensions)

    return dataclasses.replace(space, dimensions=layout(space.dimensions), proprio=layout(space.proprio))
