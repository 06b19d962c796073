"""Normalisation layers. Statistics are float32 whatever the activations are. Axes: d width."""

import dataclasses

import jax
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


def group_norm(width: int, num_groups: int, *, epsilon: float, rngs: nnx.Rngs) -> nnx.GroupNorm:
    return nnx.GroupNorm(
        width,
        num_groups,
        epsilon=epsilon,
        param_dtype=jnp.float32,
        use_fast_variance=False,
        scale_metadata={"logical_axes": ("feature",)},
        bias_metadata={"logical_axes": ("feature",)},
        rngs=rngs,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerNormConfig:
    epsilon: float = 1e-5

    def build(self, width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
        return layer_norm(width, epsilon=self.epsilon, rngs=rngs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RmsNormConfig:
    epsilon: float = 1e-6
    offset: float = 0.0
    """Added to the stored scale: Gemma stores scales around zero and has 1."""

    def build(self, width: int, rngs: nnx.Rngs) -> "RmsNorm":
        return RmsNorm(self, width)


NormConfig = LayerNormConfig | RmsNormConfig


class RmsNorm(nnx.Module):
    """x / rms(x), then the scale. Source: Zhang and Sennrich 2019."""

    def __init__(self, config: RmsNormConfig, width: int):
        self.config = config
        self.scale = nnx.Param(jnp.full(width, 1.0 - config.offset, jnp.float32), logical_axes=("feature",))

    def __call__(self, x: Float[Array, "*rest d"]) -> Float[Array, "*rest d"]:
        x32 = x.astype(jnp.float32)
        normal = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.config.epsilon)
        scale = self.scale[...]
        if self.config.offset:  # as Gemma: the product, too, is float32
            return (normal * (scale.astype(jnp.float32) + self.config.offset)).astype(x.dtype)
        return normal.astype(x.dtype) * scale


def l2_normalize(x: Float[Array, "*rest d"]) -> Float[Array, "*rest d"]:
    """Unit length over the last axis, computed in float32."""
    x32 = x.astype(jnp.float32)
    norm = jnp.sqrt(jnp.sum(x32 * x32, axis=-1, keepdims=True))
    return (x32 / jnp.maximum(norm, 1e-12)).astype(x.dtype)
