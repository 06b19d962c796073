"""The decoder core of all language models: token table, a stack of pre-norm blocks, final norm, head.

Axes: b batch, n tokens, q queries, k keys, l layers, d width, h heads, g heads of keys and values, f head width,
v vocabulary. Source: Llama 2 (Touvron et al. 2023); what Qwen and Gemma do otherwise is in `DecoderConfig`.

How it is used; nothing about a mask or a position is assumed:

    x = decoder.embed(ids)                                   # or embeddings of pictures among those of tokens
    rotation = decoder.rotation(positions)                   # or `nn.rotary.multimodal_rotation(...)`
    out = decoder.hidden(x, mask=mask, rotation=rotation)    # e.g. `masks.causal_over_valid(valid)`
    logits = decoder.logits(out.tokens[:, -1])               # only where logits are wanted

`hidden` runs a range of layers (`span=(0, 3)`, then `span=(3, None)` on its result: equal to one go), reads further
keys and values a layer (`extra`), adds to the first layers' outputs (`additions`: DeepStack), and gives what is inside
(`taps`). The final norm is part of a span that reaches the last layer. `step` is one step of decoding with a cache;
`generation.py` has the loop.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from vla_jax.nn.attention import AttentionConfig, KeyValue, Projection
from vla_jax.nn.block import BlockConfig
from vla_jax.nn.linear import linear
from vla_jax.nn.lookup import lookup
from vla_jax.nn.mlp import Activation, GatedMlpConfig
from vla_jax.nn.norms import RmsNormConfig
from vla_jax.nn.rotary import Rotation, text_rotation
from vla_jax.nn.stack import NO_TAPS, WHOLE, Remat, Span, StackConfig, StackOutput, Taps
from vla_jax.types import Mask


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    width: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    head_width: int
    mlp_width: int
    vocab_size: int
    max_length: int
    """Tokens that the weights were trained with. Positions are computed, so that longer inputs are not refused."""
    theta: float = 10000.0
    """Of the rotary positions."""
    norm: RmsNormConfig = RmsNormConfig()
    activation: Activation = "silu"
    biases: tuple[Projection, ...] = ()
    """The projections of attention that have one."""
    head_norm: RmsNormConfig | None = None
    """Of queries and keys before they are rotated (Qwen3)."""
    embedding_factor: float = 1.0
    """What rows of the token table are multiplied with (Gemma: the root of the width)."""
    tied_head: bool = False
    """True: the token table is the head as well."""
    has_head: bool = True
    """False: the head is left out, and `logits` with it; a file's head is not read (policies that say no words)."""
    remat: Remat = "full"

    def build(self, rngs: nnx.Rngs) -> "Decoder":
        return Decoder(self, rngs=rngs)

    def block(self) -> BlockConfig:
        attention = AttentionConfig(
            width=self.width,
            num_heads=self.num_heads,
            num_key_value_heads=self.num_key_value_heads,
            head_width=self.head_width,
            biases=self.biases,
            head_norm=self.head_norm,
        )
        mlp = GatedMlpConfig(hidden_width=self.mlp_width, activation=self.activation)
        return BlockConfig(attention=attention, mlp=mlp, norm=self.norm)


class Decoder(nnx.Module):
    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        table = nnx.initializers.normal(0.02)(rngs.params(), (config.vocab_size, config.width))
        self.tokens = nnx.Param(table, logical_axes=("vocab", "embed"))
        self.stack = StackConfig(block=config.block(), num_layers=config.num_layers, remat=config.remat).build(rngs)
        self.final_norm = config.norm.build(config.width, rngs)
        self.head = _head(config, rngs) if config.has_head and not config.tied_head else None

    def embed(self, ids: Int[Array, "*b n"]) -> Float[Array, "*b n d"]:
        """An id outside the vocabulary gives NaN, never another token's row."""
        ids = jnp.where(ids < 0, self.config.vocab_size, ids)  # `lookup` counts negative ids from the end
        x = lookup(self.tokens[...], ids)
        return x if self.config.embedding_factor == 1 else x * jnp.asarray(self.config.embedding_factor, x.dtype)

    def rotation(self, positions: Int[Array, "b n"]) -> Rotation:
        return text_rotation(positions, self.config.head_width, self.config.theta)

    def hidden(
        self,
        x: Float[Array, "b n d"],
        *,
        mask: Mask | None,
        rotation: Rotation,
        taps: Taps = NO_TAPS,
        extra: KeyValue | None = None,
        additions: Float[Array, "l b n d"] | None = None,
        span: Span = WHOLE,
    ) -> StackOutput:
        """Runs the layers of `span`; `tokens` are normed where it reaches the last, `layers` never are.

        `mask` None: all to all. `taps` name layers counted over the whole
        stack. `extra` are further keys, rotated already, and values of each layer of `span`, [l, b, k, g, f]; their
        columns stand first in `mask`. `additions` go to the outputs of the first l layers of `span`; `layers` has them.
        """
        out = self.stack.run(x, taps, mask=mask, rotation=rotation, extra=extra, additions=additions, span=span)
        reaches_end = self.stack.bounds(span)[1] == self.config.num_layers
        return out._replace(tokens=self.final_norm(out.tokens)) if reaches_end else out

    def hidden_states(
        self, x: Float[Array, "b n d"], *, mask: Mask | None, rotation: Rotation
    ) -> Float[Array, "l b n d"]:
        """The input, each layer's output, the last one normed: num_layers + 1, as transformers has them."""
        out = self.hidden(x, mask=mask, rotation=rotation, taps=Taps(range(self.config.num_layers - 1)))
        parts = [x[None], *([] if out.layers is None else [out.layers]), out.tokens[None]]
        return jnp.concatenate(parts)

    def logits(self, hidden: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
        assert self.config.has_head, "this decoder was built without its head"
        return hidden @ self.tokens[...].T if self.head is None else self.head(hidden)

    def step(
        self,
        x: Float[Array, "b n d"],
        cache: KeyValue,
        *,
        slot: Int[Array, ""] | int,
        mask: Bool[Array, "b n k"],
        rotation: Rotation,
    ) -> tuple[Float[Array, "b n d"], KeyValue]:
        """Normed outputs of n new tokens, and the cache [l, b, k, g, f] with them in the slots from `slot` on.

        The cache is carried from layer to layer and written where it lies. `mask` is over its slots, the new ones
        included.
        """

        def body(carry, layer):
            x, cache = carry
            block, index = layer
            found = block.projections(x, rotation=rotation)
            new = KeyValue(found.key, found.value)
            cache = jax.tree.map(
                lambda all, own: jax.lax.dynamic_update_slice(all, own[None].astype(all.dtype), (index, 0, slot, 0, 0)),
                cache,
                new,
            )
            own = jax.tree.map(lambda all: jax.lax.dynamic_index_in_dim(all, index, keepdims=False), cache)
            found = found._replace(key=own.key.astype(x.dtype), value=own.value.astype(x.dtype))
            return (block.finish(x, block.attention.combine(found, mask=mask)), cache), None

        indices = jnp.arange(self.config.num_layers)
        (x, cache), _ = jax.lax.scan(body, (x, cache), (self.stack.blocks, indices))
        return self.final_norm(x), cache


def _head(config: DecoderConfig, rngs: nnx.Rngs) -> nnx.Linear:
    return linear(config.width, config.vocab_size, ("embed", "vocab"), use_bias=False, rngs=rngs)
