"""Learned cross-attention from text into patches, in the place of EF-VLA's Eq. 4.

Axes: b batch, t text tokens, n patches, h heads, f head width, d shared text-image width.
Source: EF-VLA's ablation "EF-VLA (xattn)", whose definition is missing; here one multi-head attention of the shared
width, text for queries, patches for keys and values, without a residual, as Eq. 4 has none.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vla_jax.fusion.text_fusion import TextFusion, TextFusionConfig
from vla_jax.nn.attention import AttentionConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossFusionConfig(TextFusionConfig):
    width: int
    """The shared width."""
    num_heads: int = 8

    def build(self, rngs: nnx.Rngs) -> "CrossFusion":
        return CrossFusion(self, rngs=rngs)


class CrossFusion(TextFusion):
    def __init__(self, config: CrossFusionConfig, *, rngs: nnx.Rngs):
        attention = AttentionConfig(width=config.width, num_heads=config.num_heads, memory_width=config.width)
        self.cross = attention.build(rngs)

    def __call__(self, text: Float[Array, "b t d"], patches: Float[Array, "b n d"]) -> Float[Array, "b t d"]:
        return self.cross(text, patches)

    def attention(self, text: Float[Array, "b t d"], patches: Float[Array, "b n d"]) -> Float[Array, "b t n"]:
        """The mean over heads."""
        found = self.cross.projections(text, patches)
        scores = jnp.einsum("bthf,bnhf->bhtn", found.query, found.key, preferred_element_type=jnp.float32)
        return jax.nn.softmax(scores * found.query.shape[-1] ** -0.5, axis=-1).mean(axis=1)
