"""Multi-head attention, its pieces in the open: project, rotate, attend, put together.

Axes: b batch, q queries, k keys, h heads, g heads of keys and values (h a multiple of g), f head width, d width of the
queries, e width of the memory.
Kernels are [d, h * f], heads major: one matrix a projection, as weight files have them.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vla_jax.nn import attention_kernels
from vla_jax.nn.linear import linear
from vla_jax.nn.norms import NormConfig
from vla_jax.nn.rotary import Rotation, rotate
from vla_jax.types import InputError, Mask, SelfMask

Projection = Literal["query", "key", "value", "out"]
ALL_PROJECTIONS: tuple[Projection, ...] = ("query", "key", "value", "out")


class KeyValue(NamedTuple):
    """Keys, rotated where the model rotates them, and values; with a leading axis l for a stack of layers."""

    key: Float[Array, "*l b k g f"]
    value: Float[Array, "*l b k g f"]


class Projections(NamedTuple):
    """What a layer's attention works on: normalised and rotated where the model does so."""

    query: Float[Array, "*l b q h f"]
    key: Float[Array, "*l b k g f"]
    value: Float[Array, "*l b k g f"]


def attend(
    query: Float[Array, "b q h f"],
    key: Float[Array, "b k g f"],
    value: Float[Array, "b k g f"],
    mask: Mask | None = None,
    bias: Float[Array, "b h q k"] | None = None,
    soft_cap: float | None = None,
) -> Float[Array, "b q h f"]:
    """softmax(query key^T / sqrt(f) + bias) value, the softmax in float32, by one of `attention_kernels`.

    A row that may attend to nothing gives what nobody may read: rows of padding.

    Args: soft_cap: scores s become cap tanh(s / cap), before the bias.
    """
    kernels = attention_kernels.active()
    kernel = attention_kernels.chosen(kernels, attention_kernels.call(query, key, mask, bias, soft_cap))
    if kernel == "splash" and kernels is not None and not isinstance(mask, jax.Array):
        from vla_jax.nn.splash import attend_by_splash  # half a second, which other platforms need not spend

        return attend_by_splash(query, key, value, mask, soft_cap, kernels)
    dense = mask.dense() if isinstance(mask, SelfMask) else mask
    if kernel == "cudnn":
        return attention_kernels.cudnn(query, key, value, dense)
    return attention_kernels.xla(query, key, value, dense, bias, soft_cap)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    width: int
    num_heads: int
    num_key_value_heads: int | None = None
    """Grouped-query attention; None: as many as `num_heads`."""
    head_width: int | None = None
    """None: width / num_heads."""
    memory_width: int | None = None
    """Of keys and values; None: self-attention."""
    biases: tuple[Projection, ...] = ALL_PROJECTIONS
    """The projections that have one."""
    head_norm: NormConfig | None = None
    """Of queries and keys, over the head width, before they are rotated (Qwen3)."""
    soft_cap: float | None = None
    """Scores s become cap tanh(s / cap) (Gemma 2)."""

    def __post_init__(self):
        if self.head_width is None and self.width % self.num_heads:
            raise InputError(f"attention width {self.width} is not a multiple of num_heads={self.num_heads}")
        if self.num_heads % self.groups:
            raise InputError(f"num_heads={self.num_heads} is not a multiple of num_key_value_heads={self.groups}")

    @property
    def groups(self) -> int:
        return self.num_key_value_heads or self.num_heads

    @property
    def features(self) -> int:
        """Of one head."""
        return self.head_width or self.width // self.num_heads

    def build(self, rngs: nnx.Rngs) -> "Attention":
        return Attention(self, rngs=rngs)


class Attention(nnx.Module):
    def __init__(self, config: AttentionConfig, *, rngs: nnx.Rngs):
        self.config = config
        memory_width = config.memory_width or config.width
        inner, narrow = config.num_heads * config.features, config.groups * config.features

        def projection(name: Projection, in_width: int, out_width: int) -> nnx.Linear:
            heads = f"heads:{config.groups if name in ('key', 'value') else config.num_heads}"
            axes = (heads, "embed") if name == "out" else ("embed", heads)
            return linear(in_width, out_width, axes, use_bias=name in config.biases, rngs=rngs)

        self.query = projection("query", config.width, inner)
        self.key = projection("key", memory_width, narrow)
        self.value = projection("value", memory_width, narrow)
        self.out = projection("out", inner, config.width)
        norm = config.head_norm
        self.query_norm = None if norm is None else norm.build(config.features, rngs)
        self.key_norm = None if norm is None else norm.build(config.features, rngs)

    def __call__(
        self,
        x: Float[Array, "b q d"],
        memory: Float[Array, "b k e"] | None = None,
        *,
        mask: Mask | None = None,
        rotation: Rotation | None = None,
        scores: Literal["qk", "qq"] = "qk",
    ) -> Float[Array, "b q d"]:
        """Proj(Attn(q, k, v)). `scores="qq"`: queries stand in for keys (self-self attention, ClearCLIP)."""
        assert scores == "qk" or memory is None
        found = self.projections(x, memory, rotation=rotation)
        if scores == "qq":
            found = found._replace(key=found.query)
        return self.combine(found, mask=mask)

    def projections(
        self,
        x: Float[Array, "b q d"],
        memory: Float[Array, "b k e"] | None = None,
        *,
        rotation: Rotation | None = None,
    ) -> Projections:
        memory = x if memory is None else memory
        query, key, value = self._heads(self.query(x)), self._heads(self.key(memory)), self._heads(self.value(memory))
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        return Projections(query, key, value)

    def combine(
        self,
        projections: Projections,
        *,
        mask: Mask | None = None,
        extra: KeyValue | None = None,
    ) -> Float[Array, "b q d"]:
        """Attends and projects. `extra` keys and values stand before the layer's own; `mask` has their columns too."""
        query, key, value = projections
        if extra is not None:
            assert not isinstance(mask, SelfMask), "it knows no columns of extra keys"
            join = functools.partial(jnp.concatenate, axis=1)
            key, value = join([extra.key.astype(key.dtype), key]), join([extra.value.astype(value.dtype), value])
        attended = attend(query, key, value, mask, soft_cap=self.config.soft_cap)
        return self.out(attended.reshape(*attended.shape[:-2], -1))

    def _heads(self, x: Float[Array, "b k d"]) -> Float[Array, "b k h f"]:
        return x.reshape(*x.shape[:-1], -1, self.config.features)
