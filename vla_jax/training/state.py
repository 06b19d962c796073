"""The training state: everything that a step changes, and nothing else.

Frozen parameters are no part of it; they are an argument of the step. `key` is carried and split at every
step, so it is a function of the seed and the number of finished steps.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from vla_jax import sharding
from vla_jax.types import Parameters


@struct.dataclass
class Watch:
    """What is remembered of the losses, to tell a bad step by (`training/bad_steps.py`)."""

    mean: Float[Array, ""]
    """Of the losses of the steps that were kept, as is the variance; both run."""
    variance: Float[Array, ""]
    num_kept: Int[Array, ""]
    num_skipped: Int[Array, ""]
    """Steps left out since the run began."""
    num_in_a_row: Int[Array, ""]
    """Of them, since the last one that was kept."""


@struct.dataclass
class TrainState:
    step: Int[Array, ""]
    """Finished optimizer steps."""
    parameters: Parameters
    """Trainable only; float32 master weights."""
    optimizer: optax.OptState
    ema: Parameters | None
    key: Key[Array, ""]
    bad_step: Int[Array, ""]
    """The first step since this process started for which the run has to stop; -1: none. Never saved."""
    watch: Watch


def new_state(parameters: Parameters, optimizer: optax.GradientTransformation, *, ema: bool, seed: int) -> TrainState:
    """Step 0. The moving average starts as a copy, because the step donates both."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        parameters=parameters,
        optimizer=optimizer.init(parameters),
        ema=jax.tree.map(jnp.copy, parameters) if ema else None,
        key=jax.random.key(seed),
        bad_step=jnp.full((), -1, jnp.int32),
        watch=Watch(*(jnp.zeros((), dtype) for dtype in 2 * [jnp.float32] + 3 * [jnp.int32])),
    )


def with_shardings(mesh: Mesh, state: TrainState, shardings: dict[str, jax.sharding.NamedSharding]) -> TrainState:
    """The abstract state with its shardings: whatever belongs to a parameter lies as that parameter does.

    Leaves of the optimizer that belong to a parameter are those that stand under its path and have its shape.
    """
    everywhere = sharding.replicated(mesh)

    def place(key_path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        path = getattr(key_path[-1], "key", "")
        own = path in shardings and state.parameters[path].shape == leaf.shape
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings[path] if own else everywhere)

    return jax.tree_util.tree_map_with_path(place, state)
