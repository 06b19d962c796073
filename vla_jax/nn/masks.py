"""Attention masks, True = may attend. Axes: b batch, q queries, k keys, t positions."""

import jax.numpy as jnp
from jaxtyping import Array, Bool


def causal(length: int) -> Bool[Array, "q k"]:
    return jnp.tril(jnp.ones((length, length), bool))


def causal_over_valid(valid: Bool[Array, "b t"]) -> Bool[Array, "b t t"]:
    """Causal over valid positions; each position may see itself, so that no row is empty."""
    length = valid.shape[-1]
    return (causal(length) & valid[:, None, :]) | jnp.eye(length, dtype=bool)
