"""The block of a transformer decoder: queries see one another, then a memory; norms first.

Axes: b batch, n queries, k memory tokens, d width, e memory width. Source: Vaswani et al. 2017, section 3.1.
"""

import dataclasses

from flax import nnx
from jaxtyping import Array, Float, Key

from vla_jax.nn import dropout
from vla_jax.nn.attention import AttentionConfig, KeyValue
from vla_jax.nn.block import Block, BlockConfig
from vla_jax.nn.rotary import Rotation
from vla_jax.types import Mask


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderBlockConfig(BlockConfig):
    """`attention` is the one into the memory; the one among queries has its width and heads."""

    def build(self, rngs: nnx.Rngs) -> "DecoderBlock":
        return DecoderBlock(self, rngs=rngs)


class DecoderBlock(Block):
    def __init__(self, config: DecoderBlockConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        own = AttentionConfig(width=config.width, num_heads=config.attention.num_heads)
        self.self_attention_norm = config.norm.build(config.width, rngs)
        self.self_attention = own.build(rngs)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        memory: Float[Array, "b k e"] | None = None,
        *,
        mask: Mask | None = None,
        rotation: Rotation | None = None,
        key: Key[Array, ""] | None = None,
        extra: KeyValue | None = None,
    ) -> Float[Array, "b n d"]:
        """Args: mask: of the memory."""
        own_key, key = dropout.split(key, 2)
        attended = self.self_attention(self.self_attention_norm(x))
        x = x + dropout.dropout(attended, self.dropout_rate, own_key)
        return super().__call__(x, memory, mask=mask, rotation=rotation, key=key, extra=extra)
