"""Attention pooling: a few learned queries read a set of tokens and become one vector.

Axes: b batch, t tokens, d token width, q queries, e width of a query.
Source: EF-VLA section 3.2 and Table 6 (4 queries, 2 blocks, 8 heads).
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from vla_jax.nn.block import plain_block
from vla_jax.nn.stack import StackConfig
from vla_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionPoolingConfig:
    out_width: int
    """Of the pooled vector: the queries' outputs side by side."""
    num_queries: int = 4
    num_blocks: int = 2
    num_heads: int = 8
    mlp_width: int = 512

    def __post_init__(self):
        if self.out_width % (self.num_queries * self.num_heads):
            raise InputError(
                f"pooling out_width={self.out_width} is not a multiple of num_queries={self.num_queries} x "
                f"num_heads={self.num_heads}"
            )

    def build(self, token_width: int, rngs: nnx.Rngs) -> "AttentionPooling":
        return AttentionPooling(self, token_width, rngs=rngs)


class AttentionPooling(nnx.Module):
    def __init__(self, config: AttentionPoolingConfig, token_width: int, *, rngs: nnx.Rngs):
        width = config.out_width // config.num_queries
        initial = 0.02 * jax.random.normal(rngs.params(), (config.num_queries, width), jnp.float32)
        self.queries = nnx.Param(initial, logical_axes=(None, "feature"))
        block = plain_block(
            width=width, num_heads=config.num_heads, mlp_width=config.mlp_width, memory_width=token_width
        )
        self.stack = StackConfig(block=block, num_layers=config.num_blocks).build(rngs)

    def __call__(self, tokens: Float[Array, "b t d"], mask: Bool[Array, "b t"] | None = None) -> Float[Array, "b qe"]:
        queries = jnp.broadcast_to(self.queries[...], (tokens.shape[0], *self.queries.shape)).astype(tokens.dtype)
        pooled = self.stack(queries, tokens, mask=None if mask is None else mask[:, None, :])
        return pooled.reshape(pooled.shape[0], -1)
