"""Attention that a language model shares with a vision expert, layer by layer (VL-MoT).

Axes: b batch, n tokens of the language model, e tokens of the expert, k those of them that are shared, l coupled pairs
of layers, h heads, g heads of keys, f head width of the language model, c width of the expert, i j its heads.
Source: DeepVision-VLA Eq. 2-4 and Figure 3: each branch projects its tokens, an aligner (a linear layer, then a layer
norm) brings the expert's projections into the language model's, one attention runs over both, and each branch goes on
with its own output projection and perceptron. The mask of Figure 3c (`shared_mask`): the expert's rows see the expert
alone, the language model's see all of the expert and what they saw before. So nothing flows back into the expert, and
its rows can attend apart: with `expert_attention="native"` by the expert's own heads and positions, which leaves the
pretrained expert what it was, and only keys and values are aligned. `"aligned"` is Eq. 3-4 to the letter: the expert's
queries are aligned, too, attend in the language model's heads, and a linear layer brings the result back.

Not stated there and resolved here: projections are aligned as they are before they are rotated, to the language model's
heads (`align_to="hidden"`: to its width, from where its own projections go on); the aligner's norm is over a head and
takes the place of the language model's norm of keys; aligned keys are rotated by where the expert's tokens lie.

A pair of layers is one step of a scan. In both stacks layers are taken by number, as `nn.stack` does it.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from vla_jax.nn.attention import Attention, AttentionConfig, KeyValue, Projections, attend
from vla_jax.nn.block import Block
from vla_jax.nn.linear import linear
from vla_jax.nn.norms import layer_norm
from vla_jax.nn.rotary import Rotation, rotate
from vla_jax.nn.stack import Edit, Stack

EPSILON = 1e-5
"""Of the aligner's norms; the paper does not say it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedAttentionConfig:
    expert_attention: Literal["native", "aligned"] = "native"
    align_to: Literal["heads", "hidden"] = "heads"
    key_norm: bool = False
    """True: the language model's own norm of keys comes after the aligner's (always, where `align_to="hidden"`)."""
    bias_init: float | None = None
    """Initial value of a learned bias a layer on the scores of the expert's keys, e.g. -4, which hardly disturbs a
    pretrained language model at first. None: there is none."""

    def build(
        self, decoder: AttentionConfig, expert: AttentionConfig, num_layers: int, rngs: nnx.Rngs
    ) -> "SharedAttention":
        return SharedAttention(self, decoder, expert, num_layers, rngs=rngs)


class Branch(NamedTuple):
    """One side of the coupled layers."""

    stack: Stack
    start: int
    """Its first coupled layer."""
    tokens: Float[Array, "b n d"]
    rotation: Rotation | None
    mask: Bool[Array, "b n n"] | None = None
    stride: int = 1
    """Layers to one of the other side; the last of them shares."""
    edit: Edit | None = None


class Shared(NamedTuple):
    """What the language model gets to see of the expert."""

    select: Callable[[Array], Array]
    """Of an array over the expert's tokens, [b, e, ...], the shared ones, [b, k, ...]."""
    rotation: Rotation | None
    """Of all the expert's tokens, in the language model's heads."""
    mask: Bool[Array, "b n k"]
    """Which rows of the language model see which shared tokens."""


class Aligner(nnx.Module):
    """Of one layer."""

    def __init__(
        self, config: SharedAttentionConfig, decoder: AttentionConfig, expert: AttentionConfig, *, rngs: nnx.Rngs
    ):
        self.config = config
        heads = {"query": decoder.num_heads, "key": decoder.groups, "value": decoder.groups}
        expert_heads = {"query": expert.num_heads, "key": expert.groups, "value": expert.groups}
        is_literal = config.expert_attention == "aligned"

        def part(name: str) -> Alignment:
            inner = expert_heads[name] * expert.features
            if config.align_to == "hidden":
                return Alignment(inner, decoder.width, decoder.width, rngs=rngs)
            return Alignment(inner, heads[name] * decoder.features, decoder.features, rngs=rngs)

        self.query = part("query") if is_literal else None
        self.key, self.value = part("key"), part("value")
        back = (decoder.num_heads * decoder.features, expert.num_heads * expert.features)
        self.out = linear(*back, (f"heads:{decoder.num_heads}", "embed"), rngs=rngs) if is_literal else None
        self.bias = None if config.bias_init is None else nnx.Param(jnp.full((), config.bias_init, jnp.float32))

    def key_value(self, found: KeyValue, attention: Attention, rotation: Rotation | None) -> KeyValue:
        """Args: found: of the expert, not rotated. attention: the language model's. rotation: of `found`'s tokens."""
        key = self._in_heads(self.key(found.key), attention.key, attention.config.features)
        if attention.key_norm is not None and self._norms_heads:
            key = attention.key_norm(key)
        value = self._in_heads(self.value(found.value), attention.value, attention.config.features)
        return KeyValue(key if rotation is None else rotate(key, rotation), value)

    def queries(
        self, found: Float[Array, "b e i j"], attention: Attention, rotation: Rotation | None
    ) -> Float[Array, "b e h f"]:
        assert self.query is not None, "the expert's own attention aligns no queries"
        query = self._in_heads(self.query(found), attention.query, attention.config.features)
        if attention.query_norm is not None and self._norms_heads:
            query = attention.query_norm(query)
        return query if rotation is None else rotate(query, rotation)

    @property
    def _norms_heads(self) -> bool:
        return self.config.key_norm or self.config.align_to == "hidden"

    def _in_heads(self, aligned: Array, projection: Callable[[Array], Array], width: int) -> Array:
        """Args: projection: the language model's own, which goes on from the hidden width."""
        if self.config.align_to == "hidden":
            aligned = projection(aligned)
        return aligned.reshape(*aligned.shape[:2], -1, width)


class Alignment(nnx.Module):
    """A linear layer, and a layer norm over runs of `norm_width` of what it gives."""

    def __init__(self, in_width: int, out_width: int, norm_width: int, *, rngs: nnx.Rngs):
        self.linear = linear(in_width, out_width, ("embed", f"heads:{out_width // norm_width}"), rngs=rngs)
        self.norm = layer_norm(norm_width, epsilon=EPSILON, rngs=rngs)
        self.norm_width = norm_width

    def __call__(self, x: Float[Array, "b k i j"]) -> Float[Array, "b k o"]:
        aligned = self.linear(x.reshape(*x.shape[:2], -1))
        return self.norm(aligned.reshape(*aligned.shape[:2], -1, self.norm_width)).reshape(aligned.shape)


class SharedAttention(nnx.Module):
    def __init__(
        self,
        config: SharedAttentionConfig,
        decoder: AttentionConfig,
        expert: AttentionConfig,
        num_layers: int,
        *,
        rngs: nnx.Rngs,
    ):
        self.config = config
        self.num_layers = num_layers
        keys = jax.random.split(rngs.params(), num_layers)
        self.aligners = jax.vmap(lambda key: Aligner(config, decoder, expert, rngs=nnx.Rngs(key)))(keys)

    def __call__(
        self, decoder: Branch, expert: Branch, shared: Shared
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b e c"]]:
        """Outputs of both branches' last coupled layers, before any final norm."""
        assert decoder.stride == 1, "each coupled layer of the language model has a partner"

        def pair(carry: tuple[Array, Array], layer: tuple[Array, Array, Aligner]) -> tuple[tuple[Array, Array], None]:
            (x, e), (number, first, aligner) = carry, layer
            block = decoder.stack.at(number)
            x = x if decoder.edit is None else decoder.edit(x, number)
            for offset in range(expert.stride - 1):
                e = expert.stack.at(first + offset)(e, mask=expert.mask, rotation=expert.rotation)
            partner = expert.stack.at(first + expert.stride - 1)
            found = partner.projections(e)
            if self.config.expert_attention == "native":
                e = partner.finish(e, partner.attention.combine(_rotated(found, expert.rotation), mask=expert.mask))
            else:
                e = partner.finish(e, _literal(aligner, block, partner, found, shared.rotation, expert.mask))
            return (self._reading(x, block, decoder, aligner, KeyValue(found.key, found.value), shared), e), None

        numbers = decoder.start + jnp.arange(self.num_layers)
        firsts = expert.start + expert.stride * jnp.arange(self.num_layers)
        inputs = (numbers, firsts, self.aligners)
        return jax.lax.scan(decoder.stack.checkpointed(pair), (decoder.tokens, expert.tokens), inputs)[0]

    def read(
        self, decoder: Branch, found: Float[Array, "l b e c"], projector: Stack, layers: tuple[int, ...], shared: Shared
    ) -> Float[Array, "b n d"]:
        """As a call, where the expert has been run already. Args: found: what its `layers` read."""

        def pair(x: Array, layer: tuple[Array, Array, Array, Aligner]) -> tuple[Array, None]:
            number, partner_number, e, aligner = layer
            x = x if decoder.edit is None else decoder.edit(x, number)
            own = projector.at(partner_number).projections(e)
            block = decoder.stack.at(number)
            return self._reading(x, block, decoder, aligner, KeyValue(own.key, own.value), shared), None

        numbers = decoder.start + jnp.arange(self.num_layers)
        inputs = (numbers, jnp.asarray(layers), found, self.aligners)
        return jax.lax.scan(decoder.stack.checkpointed(pair), decoder.tokens, inputs)[0]

    def _reading(
        self, x: Array, block: Block, decoder: Branch, aligner: Aligner, found: KeyValue, shared: Shared
    ) -> Float[Array, "b n d"]:
        """The language model's layer, with what is shared among its keys."""
        rotation = shared.rotation and Rotation(*map(shared.select, shared.rotation))
        chosen = KeyValue(*map(shared.select, found))
        extra = aligner.key_value(chosen, block.attention, rotation)
        own = block.projections(x, rotation=decoder.rotation)
        assert decoder.mask is not None, "the language model's mask is never left out"
        mask = jnp.concatenate([shared.mask, decoder.mask], axis=-1)
        if aligner.bias is None:
            return block.finish(x, block.attention.combine(own, mask=mask, extra=extra))
        bias = jnp.where(jnp.arange(mask.shape[-1]) < extra.key.shape[1], aligner.bias[...].astype(jnp.float32), 0.0)
        bias = jnp.broadcast_to(bias, (*own.query.shape[:1], own.query.shape[2], *mask.shape[1:]))
        key = jnp.concatenate([extra.key.astype(own.key.dtype), own.key], axis=1)
        value = jnp.concatenate([extra.value.astype(own.value.dtype), own.value], axis=1)
        attended = attend(own.query, key, value, mask, bias, block.attention.config.soft_cap)
        return block.finish(x, block.attention.out(_flat(attended)))


def shared_mask(
    shared: Bool[Array, "b k"], own: Bool[Array, "b n n"], readers: Bool[Array, "b n"] | None = None
) -> Bool[Array, "b kn kn"]:
    """Figure 3c: rows and columns of the expert's tokens, then the language model's. The
    last n rows are a coupled layer's mask.

    Args: shared: False where the expert sees no picture. own: the language model's. readers: its rows that see the
    expert; None: all.
    """
    batch, length = own.shape[:2]
    rows = jnp.ones((batch, length), bool) if readers is None else readers
    seen = rows[:, :, None] & shared[:, None, :]
    count = shared.shape[1]
    expert_rows = jnp.broadcast_to(jnp.arange(count + length) < count, (batch, count, count + length))
    return jnp.concatenate([expert_rows, jnp.concatenate([seen, own], axis=2)], axis=1)


def _literal(
    aligner: Aligner,
    block: Block,
    partner: Block,
    found: Projections,
    rotation: Rotation | None,
    mask: Bool[Array, "b e e"] | None,
) -> Float[Array, "b e c"]:
    """H_E of Eq. 4, brought back, and through the expert's own output projection."""
    query = aligner.queries(found.query, block.attention, rotation)
    key, value = aligner.key_value(KeyValue(found.key, found.value), block.attention, rotation)
    assert aligner.out is not None
    attended = attend(query, key, value, mask, soft_cap=block.attention.config.soft_cap)
    return partner.attention.out(aligner.out(_flat(attended)))


def _rotated(found: Projections, rotation: Rotation | None) -> Projections:
    if rotation is None:
        return found
    return found._replace(query=rotate(found.query, rotation), key=rotate(found.key, rotation))


def _flat(attended: Float[Array, "b n h f"]) -> Float[Array, "b n hf"]:
    return attended.reshape(*attended.shape[:-2], -1)
