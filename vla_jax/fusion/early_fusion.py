"""Text-aware visual features: EF-VLA Eq. 4, f_vl = softmax(f_l f_v^T / tau) f_v.

Axes: b batch (samples times window steps), t text tokens, n patches, d shared text-image width.
Differs from the published code: there the logarithm of 1/tau starts outside its own clip, where the gradient
is zero, so tau stays 0.01 for ever. Here the clip passes gradients straight through and tau trains; it keeps
the clip's bounds in the forward pass. `learn_temperature=False` with `initial_temperature=0.01` is theirs.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vla_jax.nn.positions import sinusoidal
from vla_jax.types import InputError

MAX_SCALE = 100.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlyFusionConfig:
    initial_temperature: float = 0.07
    """tau of Eq. 4, CLIP's initial value; stored as log(1 / tau), clipped so that tau >= 0.01."""
    learn_temperature: bool = True
    value_positions: bool = False
    """Adds a sinusoid over patches to the values, as the published code does; Eq. 4 has none."""

    def __post_init__(self):
        if not self.initial_temperature > 0:
            raise InputError(f"fusion.initial_temperature={self.initial_temperature}: a positive number expected")

    def build(self, rngs: nnx.Rngs) -> "EarlyFusion":
        return EarlyFusion(self, rngs=rngs)


class EarlyFusion(nnx.Module):
    """Parameter-free but for the temperature, one module a camera."""

    def __init__(self, config: EarlyFusionConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.log_scale = nnx.Param(jnp.full((), math.log(1.0 / config.initial_temperature), jnp.float32))

    def __call__(self, text: Float[Array, "b t d"], patches: Float[Array, "b n d"]) -> Float[Array, "b t d"]:
        """Both inputs have unit length over d."""
        weights = self.attention(text, patches).astype(patches.dtype)
        values = patches
        if self.config.value_positions:
            values = values + sinusoidal(patches.shape[-2], patches.shape[-1]).astype(patches.dtype)
        return jnp.einsum("btn,bnd->btd", weights, values)

    def attention(self, text: Float[Array, "b t d"], patches: Float[Array, "b n d"]) -> Float[Array, "b t n"]:
        """Where each text token looks: rows sum to one over the patches. float32."""
        similarity = jnp.einsum("btd,bnd->btn", text, patches, preferred_element_type=jnp.float32)
        return jax.nn.softmax(similarity * self.scale(), axis=-1)

    def scale(self) -> Float[Array, ""]:
        """1 / tau, at most 100."""
        log_scale = self.log_scale[...].astype(jnp.float32)
        if not self.config.learn_temperature:
            log_scale = jax.lax.stop_gradient(log_scale)
        clipped = jnp.minimum(log_scale, math.log(MAX_SCALE))
        return jnp.exp(log_scale + jax.lax.stop_gradient(clipped - log_scale))
