"""Attention masks, True = may attend. Axes: b batch, q queries, k keys, t positions."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from vla_jax.types import SelfMask


def causal(length: int) -> Bool[Array, "q k"]:
    return jnp.tril(jnp.ones((length, length), bool))


def causal_over_valid(valid: Bool[Array, "b t"], num_seeing_all: int = 0) -> SelfMask:
    """Causal over valid positions. Args: num_seeing_all: positions at the end that see later valid ones, too."""
    length = valid.shape[-1]
    num_causal = length - num_seeing_all
    return SelfMask(valid, (*range(1, num_causal + 1), *[length] * num_seeing_all))


def all_over_valid(valid: Bool[Array, "b t"]) -> SelfMask:
    """To all valid positions, later ones too."""
    return causal_over_valid(valid, valid.shape[-1])


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
