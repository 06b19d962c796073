"""The pre-norm transformer block: self-attention, or cross-attention into a memory.

Axes: b batch, n tokens, k memory tokens, d width, e memory width.
Source: EF-VLA Eq. 1-3 (the ViT block of CLIP); dropout after each projection.
"""

import dataclasses
from typing import Literal

from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from vla_jax.nn import dropout
from vla_jax.nn.attention import AttentionConfig
from vla_jax.nn.mlp import Activation, Mlp
from vla_jax.nn.norms import layer_norm


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockConfig:
    width: int
    num_heads: int
    mlp_width: int
    activation: Activation = "gelu"
    epsilon: float = 1e-5
    memory_width: int | None = None
    """Set: the attention reads a memory of this width instead of its own input."""
    dropout_rate: float = 0.0

    def build(self, rngs: nnx.Rngs) -> "Block":
        return Block(self, rngs=rngs)


class Block(nnx.Module):
    def __init__(self, config: BlockConfig, *, rngs: nnx.Rngs):
        self.dropout_rate = config.dropout_rate
        self.attention_norm = layer_norm(config.width, epsilon=config.epsilon, rngs=rngs)
        self.attention = AttentionConfig(
            width=config.width, num_heads=config.num_heads, memory_width=config.memory_width
        ).build(rngs)
        self.mlp_norm = layer_norm(config.width, epsilon=config.epsilon, rngs=rngs)
        self.mlp = Mlp(config.width, config.mlp_width, config.activation, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        memory: Float[Array, "b k e"] | None = None,
        *,
        mask: Bool[Array, "..."] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b n d"]:
        attention_key, mlp_key = dropout.split(key, 2)
        attended = self.attention_output(x, memory, mask=mask)
        x = x + dropout.dropout(attended, self.dropout_rate, attention_key)
        return x + dropout.dropout(self.mlp(self.mlp_norm(x)), self.dropout_rate, mlp_key)

    def attention_output(
        self,
        x: Float[Array, "b n d"],
        memory: Float[Array, "b k e"] | None = None,
        *,
        mask: Bool[Array, "..."] | None = None,
        scores: Literal["qk", "qq"] = "qk",
    ) -> Float[Array, "b n d"]:
        """X_attn: what attention adds to the residual stream (EF-VLA Eq. 2)."""
        return self.attention(self.attention_norm(x), memory, mask=mask, scores=scores)
