"""Pooling: a set of tokens becomes one vector.

Axes: b batch, t tokens, d token width, q queries, e width of a query, o width of the pooled vector.
Source: EF-VLA section 3.2 and Table 6 (4 queries, 2 blocks, 8 heads). Both published codes end with a layer norm; the
PyTorch one goes on from the normalised queries instead of the queries (`residual="normed"`), with a perceptron as wide
as the pooled vector.
"""

import abc
import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from vla_jax.nn.attention import AttentionConfig, KeyValue
from vla_jax.nn.block import Block, BlockConfig
from vla_jax.nn.linear import linear
from vla_jax.nn.mlp import Activation, MlpConfig
from vla_jax.nn.norms import LayerNormConfig, layer_norm
from vla_jax.nn.rotary import Rotation
from vla_jax.nn.stack import StackConfig
from vla_jax.types import InputError, Mask


class Pooling(nnx.Module):
    def __call__(self, tokens: Float[Array, "b t d"], mask: Bool[Array, "b t"] | None = None) -> Float[Array, "b o"]:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoolingConfig(abc.ABC):
    out_width: int
    """Of the pooled vector."""

    @abc.abstractmethod
    def build(self, token_width: int, rngs: nnx.Rngs) -> Pooling: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionPoolingConfig(PoolingConfig):
    """A few learned queries read the tokens; their outputs stand side by side."""

    num_queries: int = 4
    num_blocks: int = 2
    num_heads: int = 8
    mlp_width: int = 512
    residual: Literal["queries", "normed"] = "queries"
    """What attention and perceptron add to: the queries (pre-norm), or the normalised ones."""
    final_norm: bool = False
    activation: Activation = "gelu"
    epsilon: float = 1e-5
    """Of every layer norm."""

    def __post_init__(self):
        if self.out_width % (self.num_queries * self.num_heads):
            raise InputError(
                f"pooling out_width={self.out_width} is not a multiple of num_queries={self.num_queries} x "
                f"num_heads={self.num_heads}"
            )

    @property
    def query_width(self) -> int:
        return self.out_width // self.num_queries

    def block(self, token_width: int) -> BlockConfig:
        kind = BlockConfig if self.residual == "queries" else NormedBlockConfig
        return kind(
            attention=AttentionConfig(width=self.query_width, num_heads=self.num_heads, memory_width=token_width),
            mlp=MlpConfig(hidden_width=self.mlp_width, activation=self.activation),
            norm=LayerNormConfig(epsilon=self.epsilon),
        )

    def build(self, token_width: int, rngs: nnx.Rngs) -> "AttentionPooling":
        return AttentionPooling(self, token_width, rngs=rngs)


class AttentionPooling(Pooling):
    def __init__(self, config: AttentionPoolingConfig, token_width: int, *, rngs: nnx.Rngs):
        initial = 0.02 * jax.random.normal(rngs.params(), (config.num_queries, config.query_width), jnp.float32)
        self.queries = nnx.Param(initial, logical_axes=(None, "feature"))
        self.stack = StackConfig(block=config.block(token_width), num_layers=config.num_blocks).build(rngs)
        norm = layer_norm(config.query_width, epsilon=config.epsilon, rngs=rngs) if config.final_norm else None
        self.final_norm = norm

    def __call__(self, tokens: Float[Array, "b t d"], mask: Bool[Array, "b t"] | None = None) -> Float[Array, "b qe"]:
        queries = jnp.broadcast_to(self.queries[...], (tokens.shape[0], *self.queries.shape)).astype(tokens.dtype)
        pooled = self.stack(queries, tokens, mask=None if mask is None else mask[:, None, :])
        if self.final_norm is not None:
            pooled = self.final_norm(pooled)
        return pooled.reshape(pooled.shape[0], -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormedBlockConfig(BlockConfig):
    def build(self, rngs: nnx.Rngs) -> "NormedBlock":
        return NormedBlock(self, rngs=rngs)


class NormedBlock(Block):
    """A block that goes on from its normalised input. No dropout."""

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
        x = self.attention_norm(x)
        x = self.mlp_norm(x + self.attention(x, memory, mask=mask, rotation=rotation))
        return x + self.mlp(x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearPoolingConfig(PoolingConfig):
    """One linear layer over the mean of the tokens: for sets of one, CLIP's embeddings (LF-VLA (cls))."""

    def build(self, token_width: int, rngs: nnx.Rngs) -> "LinearPooling":
        return LinearPooling(self, token_width, rngs=rngs)


class LinearPooling(Pooling):
    def __init__(self, config: LinearPoolingConfig, token_width: int, *, rngs: nnx.Rngs):
        self.projection = linear(token_width, config.out_width, ("embed", "feature"), rngs=rngs)

    def __call__(self, tokens: Float[Array, "b t d"], mask: Bool[Array, "b t"] | None = None) -> Float[Array, "b o"]:
        if mask is None:
            return self.projection(tokens.mean(axis=1))
        weights = mask.astype(tokens.dtype)[..., None]
        return self.projection((tokens * weights).sum(axis=1) / jnp.maximum(weights.sum(axis=1), 1))
