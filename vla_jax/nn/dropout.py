"""Dropout with an explicit key."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def dropout(x: Float[Array, "..."], rate: float, key: Key[Array, ""] | None) -> Float[Array, "..."]:
    """Zeroes a share `rate` of the entries and scales the rest; `key=None` means deterministic."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


def split(key: Key[Array, ""] | None, num: int) -> list[Key[Array, ""] | None]:
    """`num` keys, or as many Nones."""
    return [None] * num if key is None else list(jax.random.split(key, num))
