"""The pre-norm transformer block: self-attention, or cross-attention into a memory. Vision and language share it.

Axes: b batch, n tokens, k memory tokens, d width, e memory width.
Source: EF-VLA Eq. 1-3 (the ViT block of CLIP); dropout after each projection; LayerScale of Touvron et al. 2021.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from vla_jax.nn import dropout
from vla_jax.nn.attention import AttentionConfig, KeyValue, Projections
from vla_jax.nn.mlp import Activation, GatedMlpConfig, MlpConfig
from vla_jax.nn.norms import LayerNormConfig, NormConfig
from vla_jax.nn.rotary import Rotation
from vla_jax.types import Mask


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockConfig:
    attention: AttentionConfig
    mlp: MlpConfig | GatedMlpConfig
    norm: NormConfig = LayerNormConfig()
    layer_scale: float | None = None
    """Initial value of a learned factor a channel on what attention and perceptron add; None: there is none."""
    dropout_rate: float = 0.0

    @property
    def width(self) -> int:
        return self.attention.width

    def build(self, rngs: nnx.Rngs) -> "Block":
        return Block(self, rngs=rngs)


def plain_block(
    *,
    width: int,
    num_heads: int,
    mlp_width: int,
    activation: Activation = "gelu",
    epsilon: float = 1e-5,
    memory_width: int | None = None,
    dropout_rate: float = 0.0,
) -> BlockConfig:
    """The block of Vaswani et al. with norms first: layer norms, biases everywhere, two-layer perceptron.

    Args: memory_width: set, the attention reads a memory of this width instead of its own input.
    """
    return BlockConfig(
        attention=AttentionConfig(width=width, num_heads=num_heads, memory_width=memory_width),
        mlp=MlpConfig(hidden_width=mlp_width, activation=activation),
        norm=LayerNormConfig(epsilon=epsilon),
        dropout_rate=dropout_rate,
    )


class Block(nnx.Module):
    def __init__(self, config: BlockConfig, *, rngs: nnx.Rngs):
        self.dropout_rate = config.dropout_rate
        self.attention_norm = config.norm.build(config.width, rngs)
        self.attention = config.attention.build(rngs)
        self.attention_scale = _scale(config)
        self.mlp_norm = config.norm.build(config.width, rngs)
        self.mlp = config.mlp.build(config.width, rngs)
        self.mlp_scale = _scale(config)

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
        found = self.projections(x, memory, rotation=rotation)
        return self.finish(x, self.attention.combine(found, mask=mask, extra=extra), key=key)

    def projections(
        self,
        x: Float[Array, "b n d"],
        memory: Float[Array, "b k e"] | None = None,
        *,
        rotation: Rotation | None = None,
    ) -> Projections:
        return self.attention.projections(self.attention_norm(x), memory, rotation=rotation)

    def finish(
        self,
        x: Float[Array, "b n d"],
        attended: Float[Array, "b n d"],
        *,
        key: Key[Array, ""] | None = None,
        between: Callable[[Array], Array] | None = None,
    ) -> Float[Array, "b n d"]:
        """The block's output, given what its attention made of `x`.

        Args: between: what is done to the tokens that the perceptron reads and is added to (FiLM).
        """
        attention_key, mlp_key = dropout.split(key, 2)
        x = x + dropout.dropout(_scaled(attended, self.attention_scale), self.dropout_rate, attention_key)
        x = x if between is None else between(x)
        added = _scaled(self.mlp(self.mlp_norm(x)), self.mlp_scale)
        return x + dropout.dropout(added, self.dropout_rate, mlp_key)

    def attention_output(
        self,
        x: Float[Array, "b n d"],
        memory: Float[Array, "b k e"] | None = None,
        *,
        mask: Mask | None = None,
        rotation: Rotation | None = None,
        scores: Literal["qk", "qq"] = "qk",
    ) -> Float[Array, "b n d"]:
        """X_attn: what attention adds to the residual stream (EF-VLA Eq. 2)."""
        attended = self.attention(self.attention_norm(x), memory, mask=mask, rotation=rotation, scores=scores)
        return _scaled(attended, self.attention_scale)


def _scale(config: BlockConfig) -> nnx.Param | None:
    if config.layer_scale is None:
        return None
    return nnx.Param(jnp.full(config.width, config.layer_scale, jnp.float32), logical_axes=("feature",))


def _scaled(x: Float[Array, "b n d"], scale: nnx.Param | None) -> Float[Array, "b n d"]:
    return x if scale is None else x * scale[...]
