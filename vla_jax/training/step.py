"""The training step, a function of arrays: gradients of a batch, an update, and what becomes of a bad one.

Precision: master weights, their gradients, the second moments and the moving average are float32. The step hands the
policy a copy of its floating parameters in `compute_dtype`; frozen parameters are held on the device in that dtype. A
policy computes in the dtype of its parameters, casts what it reads to it, and reduces its loss in float32.

Axes: b batch, m micro-batches, r rows of one.
"""

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from vla_jax.config import RunConfig
from vla_jax.parameters import Structure
from vla_jax.policies.base import Policy
from vla_jax.training.augmentation import augment
from vla_jax.training.bad_steps import judge, unless
from vla_jax.training.state import TrainState
from vla_jax.types import Batch, Losses, Parameters

Metrics = dict[str, Any]
"""`loss, grad_norm, learning_rate, terms, sample_ids` [b, 3]`, bad_step`; `num_skipped` where steps may be left out,
`ema_norm` where there is an EMA."""


@dataclasses.dataclass(frozen=True)
class Step:
    """What a step is made of that is no array."""

    config: RunConfig
    structure: Structure
    optimizer: optax.GradientTransformation
    shardings: dict[str, jax.sharding.NamedSharding]
    """Of every parameter, by path."""

    def train_step(self, state: TrainState, frozen: Parameters, batch: Batch) -> tuple[TrainState, Metrics]:
        config = self.config
        key, loss_key = jax.random.split(state.key)
        gradients, losses = self.gradients(state.parameters, frozen, batch, loss_key)
        updates, optimizer = self.optimizer.update(gradients, state.optimizer, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        ema = state.ema
        if ema is not None and config.ema_decay is not None:
            ema = moving_average(ema, parameters, state.step, config.ema_decay)
        grad_norm = optax.global_norm(gradients)
        skips, stops, watch = judge(config.skip, state.watch, losses.total, grad_norm)
        if config.skip is not None:
            was = (state.parameters, state.optimizer, state.ema)
            parameters, optimizer, ema = unless(skips, (parameters, optimizer, ema), was)
        bad_step = jnp.where(stops & (state.bad_step < 0), state.step + 1, state.bad_step)
        metrics = {
            "loss": losses.total,
            "grad_norm": grad_norm,
            "learning_rate": config.optimizer.schedule(config.num_steps)(state.step - state.watch.num_skipped),
            "terms": losses.terms,
            "sample_ids": batch.sample_ids,
            "bad_step": bad_step,
        }
        if config.skip is not None:
            metrics["num_skipped"] = watch.num_skipped
        if ema is not None:
            metrics["ema_norm"] = optax.global_norm(ema)
        return TrainState(state.step + 1, parameters, optimizer, ema, key, bad_step, watch), metrics

    def gradients(
        self, parameters: Parameters, frozen: Parameters, batch: Batch, key: Key[Array, ""]
    ) -> tuple[Parameters, Losses]:
        """Of the batch's loss: the mean over its supervised targets, however many parts it is taken in.

        Exact where a policy's whole loss is such a mean; a further term that averages over something else (DFA-VLA's
        boxes, a contrast within the batch) is averaged over the parts with the same weights.
        """
        count = self.config.micro_batches
        if count == 1:
            return self._gradients(parameters, frozen, batch, key)

        def add(so_far: Any, part: tuple[Batch, Key[Array, ""]]) -> tuple[Any, None]:
            gradients, losses = self._gradients(parameters, frozen, *part)
            weighed = jax.tree.map(
                lambda x: losses.weight * x, (gradients, dataclasses.replace(losses, weight=jnp.ones(())))
            )
            return self._summed(so_far, weighed), None

        parts = (jax.tree.map(lambda leaf: _parts(leaf, count), batch), jax.random.split(key, count))
        shapes = jax.eval_shape(lambda part: self._gradients(parameters, frozen, *part), jax.tree.map(_first, parts))
        zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        (gradients, losses), _ = jax.lax.scan(add, self._summed(zeros, zeros), parts)
        weight = losses.weight
        scaled = jax.tree.map(lambda x: x / jnp.where(weight > 0, weight, 1.0), (gradients, losses))
        return scaled[0], dataclasses.replace(scaled[1], weight=weight)

    def _gradients(
        self, parameters: Parameters, frozen: Parameters, batch: Batch, key: Key[Array, ""]
    ) -> tuple[Parameters, Losses]:
        config = self.config
        if config.augmentation is not None:
            sources = {camera.slot: camera.source for camera in config.policy.data_requirements().cameras}
            batch = augment(config.augmentation, batch, seed=config.seed, sources=sources)

        def loss(parameters: Parameters) -> tuple[Array, Losses]:
            cast_down = {path: array.astype(compute_dtype(config, array)) for path, array in parameters.items()}
            policy = cast(Policy, self.structure.merge(cast_down | frozen))
            losses = policy.loss(batch, key=key)
            losses = dataclasses.replace(losses, total=losses.total.astype(jnp.float32))
            return losses.total, losses

        return jax.grad(loss, has_aux=True)(parameters)

    def _summed(self, so_far: tuple[Parameters, Losses], more: tuple[Parameters, Losses]) -> tuple[Parameters, Losses]:
        """The sum of gradients lies as the parameters do, through all the parts."""
        gradients, losses = jax.tree.map(jnp.add, so_far, more)
        places = {path: self.shardings[path] for path in gradients}
        return jax.lax.with_sharding_constraint(gradients, places), losses


def moving_average(ema: Parameters, parameters: Parameters, step: jax.Array, decay: float) -> Parameters:
    """Decay is at most (1 + step) / (10 + step), so that a short run's average forgets its random start."""
    share = 1.0 - jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: old + share * (new - old), ema, parameters)


def compute_dtype(config: RunConfig, array: jax.Array | jax.ShapeDtypeStruct) -> jnp.dtype:
    return jnp.dtype(config.compute_dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array.dtype


def _parts(leaf: Array, count: int) -> Array:
    """[b, ...] to [m, r, ...]; a part takes every m-th row, so that each device has its share of it at hand."""
    return leaf.reshape(-1, count, *leaf.shape[1:]).swapaxes(0, 1)


def _first(leaf: Array) -> Array:
    return leaf[0]
