"""Multi-head attention.

Axes: b batch, q queries, k keys, h heads, f head width, d width of the queries, e width of the memory.
Kernels are [d, h * f], heads major: one matrix a projection, as weight files have them.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from vla_jax.nn.linear import linear
from vla_jax.types import InputError


def attend(
    query: Float[Array, "b q h f"],
    key: Float[Array, "b k h f"],
    value: Float[Array, "b k h f"],
    mask: Bool[Array, "..."] | None = None,
) -> Float[Array, "b q h f"]:
    """softmax(query key^T / sqrt(f)) value, the softmax in float32. `mask` is [q, k] or [b, q, k]."""
    scores = jnp.einsum("bqhf,bkhf->bhqk", query, key, preferred_element_type=jnp.float32)
    scores = scores / jnp.sqrt(jnp.float32(query.shape[-1]))
    if mask is not None:
        scores = jnp.where(mask if mask.ndim == 2 else mask[:, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bkhf->bqhf", weights, value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    width: int
    num_heads: int
    memory_width: int | None = None
    """Of keys and values; None: self-attention."""

    def __post_init__(self):
        if self.width % self.num_heads:
            raise InputError(f"attention width {self.width} is not a multiple of num_heads={self.num_heads}")

    def build(self, rngs: nnx.Rngs) -> "Attention":
        return Attention(self, rngs=rngs)


class Attention(nnx.Module):
    def __init__(self, config: AttentionConfig, *, rngs: nnx.Rngs):
        memory_width = config.memory_width or config.width
        self.num_heads = config.num_heads
        self.query = linear(config.width, config.width, ("embed", "heads"), rngs=rngs)
        self.key = linear(memory_width, config.width, ("embed", "heads"), rngs=rngs)
        self.value = linear(memory_width, config.width, ("embed", "heads"), rngs=rngs)
        self.out = linear(config.width, config.width, ("heads", "embed"), rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b q d"],
        memory: Float[Array, "b k e"] | None = None,
        *,
        mask: Bool[Array, "..."] | None = None,
        scores: Literal["qk", "qq"] = "qk",
    ) -> Float[Array, "b q d"]:
        """Proj(Attn(q, k, v)). `scores="qq"`: queries stand in for keys (self-self attention, ClearCLIP)."""
        assert scores == "qk" or memory is None
        memory = x if memory is None else memory
        query = self._heads(self.query(x))
        key = query if scores == "qq" else self._heads(self.key(memory))
        attended = attend(query, key, self._heads(self.value(memory)), mask)
        return self.out(attended.reshape(*attended.shape[:-2], -1))

    def _heads(self, x: Float[Array, "b k d"]) -> Float[Array, "b k h f"]:
        return x.reshape(*x.shape[:-1], self.num_heads, -1)
