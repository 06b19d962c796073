"""Normalisation layers. Statistics are float32 whatever the activations are."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


def layer_norm(width: int, *, epsilon: float, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(
        width,
        epsilon=epsilon,
        param_dtype=jnp.float32,
        use_fast_variance=False,
        scale_metadata={"logical_axes": ("feature",)},
        bias_metadata={"logical_axes": ("feature",)},
        rngs=rngs,
    )


def l2_normalize(x: Float[Array, "*rest d"]) -> Float[Array, "*rest d"]:
    """Unit length over the last axis, computed in float32."""
    x32 = x.astype(jnp.float32)
    norm = jnp.sqrt(jnp.sum(x32 * x32, axis=-1, keepdims=True))
    return (x32 / jnp.maximum(norm, 1e-12)).astype(x.dtype)
