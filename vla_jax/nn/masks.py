"""Attention masks, True = may attend. Axes: b batch, q queries, k keys, t positions."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool


def causal(length: int) -> Bool[Array, "q k"]:
    return jnp.tril(jnp.ones((length, length), bool))


def causal_over_valid(valid: Bool[Array, "b t"]) -> Bool[Array, "b t t"]:
    """Causal over valid positions; each position may see itself, so that no row is empty."""
    length = valid.shape[-1]
    return (causal(length) & valid[:, None, :]) | jnp.eye(length, dtype=bool)


def all_over_valid(valid: Bool[Array, "b t"]) -> Bool[Array, "b t t"]:
    """To all valid positions, later ones too; each position may see itself, so that no row is empty."""
    return valid[:, None, :] | jnp.eye(valid.shape[-1], dtype=bool)


def step_blocks(num_prefix: int, num_observation: int, num_readouts: int, num_steps: int) -> Bool[np.ndarray, "t t"]:
    """Octo's, of a sequence of prefix tokens, then each step's observation tokens and read-outs.

    The prefix sees itself; observations see the prefix and observations of their own and earlier steps; read-outs see
    those, too, and read-outs of their own and earlier steps. Nothing sees a read-out but read-outs.
    Source: Octo (arXiv 2405.12213), figure 2 and published `block_transformer.py`.
    """
    steps = np.concatenate([np.full(num_prefix, -1), np.repeat(np.arange(num_steps), num_observation + num_readouts)])
    one_step = np.arange(num_observation + num_readouts) >= num_observation
    is_readout = np.concatenate([np.zeros(num_prefix, bool), np.tile(one_step, num_steps)])
    return (steps[None] <= steps[:, None]) & (~is_readout[None] | is_readout[:, None])
