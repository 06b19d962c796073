"""No fusion before the trunk: LF-VLA, in which text and patches are pooled apart.

Axes: b batch, t text tokens, n patches, d shared text-image width.
Source: EF-VLA's ablations. Where its text tokens would look is what their similarity says, as in Eq. 4 without a
temperature of its own; no attention takes place.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vla_jax.fusion.text_fusion import TextFusion, TextFusionConfig

SCALE = 1 / 0.07
"""CLIP's initial one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LateFusionConfig(TextFusionConfig):
    def build(self, rngs: nnx.Rngs) -> "LateFusion":
        return LateFusion()


class LateFusion(TextFusion):
    gives_text = False

    def __call__(self, text: Float[Array, "b t d"], patches: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return patches

    def attention(self, text: Float[Array, "b t d"], patches: Float[Array, "b n d"]) -> Float[Array, "b t n"]:
        similarity = jnp.einsum("btd,bnd->btn", text, patches, preferred_element_type=jnp.float32)
        return jax.nn.softmax(similarity * SCALE, axis=-1)
