"""Text-aware visual features: EF-VLA Eq. 4, f_vl = softmax(f_l f_v^T / tau) f_v.

Axes: b batch (samples times window steps), t text tokens, n patches, d shared text-image width.
Differs from the published code: there the logarithm of 1/tau starts outside its own clip, where the gradient
is zero, so tau stays 0.01 for ever. Here the clip passes gradients straight through and tau trains; it keeps
the clip's bounds in the forward pass. `learn_temperature=False` with `initial_temperature=0.005` is theirs. The
published PyTorch code divides by tau itself, from 0.07 on and clipped to 0..100: `temperature="plain"`.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vla_jax.fusion.text_fusion import TextFusion, TextFusionConfig
from vla_jax.nn.positions import Layout, sinusoidal
from vla_jax.types import InputError

MAX_SCALE = 100.0
MAX_TEMPERATURE = 100.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlyFusionConfig(TextFusionConfig):
    initial_temperature: float = 0.07
    """tau of Eq. 4, CLIP's initial value."""
    temperature: Literal["log", "plain"] = "log"
    """What is stored: log(1 / tau), clipped so that tau >= 0.01, as CLIP has it; or tau, clipped to 0..100."""
    learn_temperature: bool = True
    value_positions: bool = False
    """Adds a sinusoid over patches to the values, as the published code does; Eq. 4 has none."""
    position_layout: Layout = "interleaved"
    """Of that sinusoid; the published code has `halves`."""

    def __post_init__(self):
        if not self.initial_temperature > 0:
            raise InputError(f"fusion.initial_temperature={self.initial_temperature}: a positive number expected")

    def build(self, rngs: nnx.Rngs) -> "EarlyFusion":
        return EarlyFusion(self, rngs=rngs)


class EarlyFusion(TextFusion):
    """Parameter-free but for the temperature, one module a camera."""

    def __init__(self, config: EarlyFusionConfig, *, rngs: nnx.Rngs):
        self.config = config
        initial, is_log = config.initial_temperature, config.temperature == "log"
        self.log_scale = nnx.Param(jnp.full((), math.log(1.0 / initial), jnp.float32)) if is_log else None
        self.tau = None if is_log else nnx.Param(jnp.full((), initial, jnp.float32))

    def __call__(self, text: Float[Array, "b t d"], patches: Float[Array, "b n d"]) -> Float[Array, "b t d"]:
        weights = self.attention(text, patches).astype(patches.dtype)
        values = patches
        if self.config.value_positions:
            layout = self.config.position_layout
            values = values + sinusoidal(patches.shape[-2], patches.shape[-1], layout).astype(patches.dtype)
        return jnp.einsum("btn,bnd->btd", weights, values)

    def attention(self, text: Float[Array, "b t d"], patches: Float[Array, "b n d"]) -> Float[Array, "b t n"]:
        similarity = jnp.einsum("btd,bnd->btn", text, patches, preferred_element_type=jnp.float32)
        return jax.nn.softmax(similarity * self.scale(), axis=-1)

    def scale(self) -> Float[Array, ""]:
        """1 / tau, at most 100 where its logarithm is stored."""
        if self.tau is not None:
            return 1.0 / jnp.clip(self._trained(self.tau), 0.0, MAX_TEMPERATURE)
        assert self.log_scale is not None
        log_scale = self._trained(self.log_scale)
        clipped = jnp.minimum(log_scale, math.log(MAX_SCALE))
        return jnp.exp(log_scale + jax.lax.stop_gradient(clipped - log_scale))

    def _trained(self, parameter: nnx.Param) -> Float[Array, ""]:
        value = parameter[...].astype(jnp.float32)
        return value if self.config.learn_temperature else jax.lax.stop_gradient(value)
