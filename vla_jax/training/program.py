"""A run's training step on a mesh: the jitted function, and shape and sharding of all that it takes.

No arrays in here: `plan` compiles the same program for a pod that is not there.

Precision: master weights, their gradients, the optimizer and the moving average are float32. The step hands the
policy a copy of its floating parameters in `compute_dtype`; frozen parameters are held on the device in that
dtype. A policy computes in the dtype of its parameters, casts what it reads to it, and reduces its loss in
float32. There is no other dtype setting.

Axes: b batch.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from vla_jax import parameters as parameter_paths
from vla_jax import sharding
from vla_jax.config import RunConfig
from vla_jax.parameters import Structure
from vla_jax.policies.base import Policy
from vla_jax.training.attention import attention_kernels
from vla_jax.training.augmentation import augment
from vla_jax.training.state import TrainState, new_state, with_shardings
from vla_jax.types import Batch, Parameters

Shapes = dict[str, jax.ShapeDtypeStruct]
Metrics = dict[str, Any]
"""`loss, grad_norm, learning_rate, terms, sample_ids` [b, 3]`, bad_step`, and `ema_norm` where there is an EMA."""


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
    sharding.check_batch_size(mesh, config.batch_size)
    structure = parameter_paths.abstract(lambda: config.build_policy(nnx.Rngs(0)))
    shapes = structure.shapes()
    shardings = sharding.parameter_shardings(mesh, shapes, structure.logical_axes())
    frozen = config.frozen(shapes)
    optimizer = config.optimizer.build(config.num_steps)
    start = functools.partial(new_state, optimizer=optimizer, ema=config.ema_decay is not None, seed=config.seed)
    trainable = {path: shape for path, shape in shapes.items() if path not in frozen}
    state = with_shardings(mesh, jax.eval_shape(start, trainable), shardings)
    held = {
        path: jax.ShapeDtypeStruct(shapes[path].shape, _compute_dtype(config, shapes[path]), sharding=shardings[path])
        for path in sorted(frozen)
    }
    state_shardings, frozen_shardings = jax.tree.map(lambda leaf: leaf.sharding, (state, held))
    step = jax.jit(
        attention_kernels(config.attention, mesh).around(functools.partial(train_step, config, structure, optimizer)),
        in_shardings=(state_shardings, frozen_shardings, sharding.batch_sharding(mesh)),
        out_shardings=(state_shardings, sharding.replicated(mesh)),
        donate_argnums=0,
    )
    return Program(
        config=config, mesh=mesh, structure=structure, shardings=shardings, state=state, frozen=held, step=step
    )


def train_step(
    config: RunConfig,
    structure: Structure,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    frozen: Parameters,
    batch: Batch,
) -> tuple[TrainState, Metrics]:
    key, loss_key = jax.random.split(state.key)
    if config.augmentation is not None:
        sources = {camera.slot: camera.source for camera in config.policy.data_requirements().cameras}
        batch = augment(config.augmentation, batch, seed=config.seed, sources=sources)

    def loss(parameters: Parameters):
        in_compute_dtype = {path: array.astype(_compute_dtype(config, array)) for path, array in parameters.items()}
        policy = cast(Policy, structure.merge(in_compute_dtype | frozen))
        losses = policy.loss(batch, key=loss_key)
        return losses.total.astype(jnp.float32), losses

    gradients, losses = jax.grad(loss, has_aux=True)(state.parameters)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.parameters)
    parameters = optax.apply_updates(state.parameters, updates)
    total, grad_norm = losses.total.astype(jnp.float32), optax.global_norm(gradients)
    is_bad = ~(jnp.isfinite(total) & jnp.isfinite(grad_norm)) & (state.bad_step < 0)
    bad_step = jnp.where(is_bad, state.step + 1, state.bad_step)
    metrics = {
        "loss": total,
        "grad_norm": grad_norm,
        "learning_rate": config.optimizer.schedule(config.num_steps)(state.step),
        "terms": losses.terms,
        "sample_ids": batch.sample_ids,
        "bad_step": bad_step,
    }
    ema = state.ema
    if ema is not None and config.ema_decay is not None:
        ema = moving_average(ema, parameters, state.step, config.ema_decay)
        metrics["ema_norm"] = optax.global_norm(ema)
    return TrainState(state.step + 1, parameters, optimizer_state, ema, key, bad_step), metrics


def moving_average(ema: Parameters, parameters: Parameters, step: jax.Array, decay: float) -> Parameters:
    """Decay is at most (1 + step) / (10 + step), so that a short run's average forgets its random start."""
    share = 1.0 - jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: old + share * (new - old), ema, parameters)


def place(array: jax.Array | np.ndarray, dtype: Any, target: jax.sharding.NamedSharding) -> jax.Array:
    """Each device gets its own part only, from a host array that every process holds or from a global array."""
    array = array.astype(dtype)
    if isinstance(array, jax.Array):
        return jax.device_put(array, target)
    return jax.make_array_from_callback(array.shape, target, lambda index: array[index])


def _draw(config: RunConfig, paths: frozenset[str]) -> Parameters:
    _, drawn = parameter_paths.split(config.build_policy(nnx.Rngs(config.seed)))
    return {path: drawn[path] for path in paths}


def _compute_dtype(config: RunConfig, array: jax.Array | jax.ShapeDtypeStruct) -> jnp.dtype:
    return jnp.dtype(config.compute_dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array.dtype
