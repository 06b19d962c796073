"""Cosines and masked means, safe where a row is zero or nothing is valid. Axes: b batch, n k tokens, d width."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

EPSILON = 1e-12
"""Added to squared lengths: the gradient at a zero row is zero, not NaN."""


def unit(x: Float[Array, "*rest d"]) -> Float[Array, "*rest d"]:
    """Unit length over the last axis, float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + EPSILON)


def cosines(x: Float[Array, "b n d"], y: Float[Array, "b k d"]) -> Float[Array, "b n k"]:
    return jnp.einsum("bnd,bkd->bnk", unit(x), unit(y), precision=jax.lax.Precision.HIGHEST)


def masked_mean(x: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> Float[Array, "b d"]:
    """Zero where nothing is valid; summed in float32."""
    total = jnp.sum(jnp.where(mask[..., None], x, 0), axis=1, dtype=jnp.float32)
    return (total / jnp.maximum(mask.sum(axis=1), 1)[:, None]).astype(x.dtype)
