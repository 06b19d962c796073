"""Batches that any policy can eat: what its requirements ask for, with every kind of padding in it."""

import jax
import jax.numpy as jnp
import numpy as np

from vla_jax.convert.parity import random_observations
from vla_jax.types import Batch, DataRequirements


def random_batch(requirements: DataRequirements, *, size: int = 8, vocab_size: int = 300, seed: int = 0) -> Batch:
    """Targets are those of a robot: each step's differs a little from the one before."""
    whole = next(random_observations(requirements, min(vocab_size, requirements.vocab_size or vocab_size), seed=seed))
    observation = jax.tree.map(lambda leaf: np.concatenate([leaf] * (size // len(leaf))), whole)
    generator, space = np.random.default_rng(seed), requirements.action_space
    shape = (size, requirements.window, space.horizon, space.action_width)
    action = np.clip(generator.normal(size=shape) * 0.2, -1, 1).cumsum(axis=2).clip(-1, 1).astype(np.float32)
    mask = np.broadcast_to(observation.timestep_mask[..., None, None], shape).copy()
    mask[1, :, -1:] = False  # the episode ends
    boxes = {}
    if observation.box_masks is not None:
        found = observation.box_masks.sum(axis=-1)
        boxes["target_box"] = np.where(found > 0, 0, -1).astype(np.int32)
    return jax.tree.map(
        jnp.asarray,
        Batch(
            observation=observation,
            action=action,
            action_mask=mask,
            sample_ids=np.zeros((size, 3), np.int32),
            sample_index=np.arange(size, dtype=np.uint32),
            **boxes,
        ),
    )
