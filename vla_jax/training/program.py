"""A run's training step on a mesh: the jitted function, and shape and sharding of all that it takes.

No arrays in here: `plan` compiles the same program for a pod that is not there.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from vla_jax import parameters as parameter_paths
from vla_jax import sharding
from vla_jax.config import RunConfig
from vla_jax.parameters import Structure
from vla_jax.training.attention import attention_kernels
from vla_jax.training.products import with_products
from vla_jax.training.state import TrainState, new_state, with_shardings
from vla_jax.training.step import Metrics, Step, compute_dtype
from vla_jax.types import Batch, Parameters

Shapes = dict[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    config: RunConfig
    mesh: Mesh
    structure: Structure
    shardings: dict[str, jax.sharding.NamedSharding]
    """Of every parameter, by path."""
    state: TrainState
    """Abstract, with shardings."""
    frozen: Shapes
    """Abstract, with shardings, in the compute dtype."""
    step: Callable[[TrainState, Parameters, Batch], tuple[TrainState, Metrics]]
    """Jitted; the state is donated."""

    def initial(self, given: Parameters) -> tuple[TrainState, Parameters]:
        """Step 0: `given` parameters (any dtype, host or device) as they are, the others drawn from the seed.

        Returns: the state, and all frozen parameters in float32.
        """
        missing = self.shardings.keys() - given.keys()
        draw = functools.partial(_draw, self.config, frozenset(missing))
        drawn = jax.jit(draw, out_shardings={path: self.shardings[path] for path in missing})()
        placed = {path: place(array, jnp.float32, self.shardings[path]) for path, array in given.items()}
        everything = drawn | placed
        start = functools.partial(
            new_state,
            optimizer=self.config.optimizer.build(self.config.num_steps),
            ema=self.config.ema_decay is not None,
            seed=self.config.seed,
        )
        trainable = {path: everything[path] for path in self.state.parameters}
        state = jax.jit(start, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, self.state))(trainable)
        return state, {path: everything[path] for path in self.frozen}

    def place_frozen(self, frozen: Parameters) -> Parameters:
        """Frozen parameters as the step takes them."""
        return {path: place(frozen[path], shape.dtype, shape.sharding) for path, shape in self.frozen.items()}


def build_program(config: RunConfig, mesh: Mesh) -> Program:
    sharding.check_batch_size(mesh, config.batch_size, config.micro_batches)
    structure = parameter_paths.abstract(
        lambda: with_products(config.build_policy(nnx.Rngs(0)), mesh, config.gradient_reduction)
    )
    shapes = structure.shapes()
    shardings = sharding.parameter_shardings(mesh, shapes, structure.logical_axes())
    frozen = config.frozen(shapes)
    optimizer = config.optimizer.build(config.num_steps)
    start = functools.partial(new_state, optimizer=optimizer, ema=config.ema_decay is not None, seed=config.seed)
    trainable = {path: shape for path, shape in shapes.items() if path not in frozen}
    state = with_shardings(mesh, jax.eval_shape(start, trainable), shardings)
    held = {
        path: jax.ShapeDtypeStruct(shapes[path].shape, compute_dtype(config, shapes[path]), sharding=shardings[path])
        for path in sorted(frozen)
    }
    state_shardings, frozen_shardings = jax.tree.map(lambda leaf: leaf.sharding, (state, held))
    step = jax.jit(
        attention_kernels(config.attention, mesh).around(Step(config, structure, optimizer, shardings).train_step),
        in_shardings=(state_shardings, frozen_shardings, sharding.batch_sharding(mesh)),
        out_shardings=(state_shardings, sharding.replicated(mesh)),
        donate_argnums=0,
    )
    return Program(
        config=config, mesh=mesh, structure=structure, shardings=shardings, state=state, frozen=held, step=step
    )


def place(array: jax.Array | np.ndarray, dtype: Any, target: jax.sharding.NamedSharding) -> jax.Array:
    """Each device gets its own part only, from a host array that every process holds or from a global array.

    It is cast part by part: the array may be as large as a file that is mapped into memory.
    """
    if isinstance(array, jax.Array):
        return jax.device_put(array, target).astype(dtype)
    return jax.make_array_from_callback(array.shape, target, lambda index: array[index].astype(dtype))


def _draw(config: RunConfig, paths: frozenset[str]) -> Parameters:
    _, drawn = parameter_paths.split(config.build_policy(nnx.Rngs(config.seed)))
    return {path: drawn[path] for path in paths}
