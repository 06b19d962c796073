"""Autoregressive decoding with a cache of keys and values: the prompt in one pass, then one token a step.

Axes: b batch, n prompt tokens, t new tokens, k slots of the cache, l layers, d width.

Prompts of unequal lengths may be padded on either side: token n + i of every row lies in slot n + i, whatever its
position; slots of padding are masked, and positions count valid tokens only. The loop is one `lax.scan` that carries
the cache, so that nothing is allocated a step; `jax.jit` a function that calls `generate` and it is compiled once.

Where the logits of a row are not all finite, e.g. after an id outside the vocabulary, its tokens are NO_TOKEN from
there on, whose embedding is NaN: never an id that could be taken for an answer.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from vla_jax.language.decoder import Decoder
from vla_jax.nn import masks
from vla_jax.nn.attention import KeyValue
from vla_jax.nn.rotary import Rotation
from vla_jax.nn.stack import Taps
from vla_jax.types import InputError, Mask

NO_TOKEN = -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    num_tokens: int
    end_ids: tuple[int, ...] = ()
    """A row ends with the first of them; it is padded after that."""
    pad_id: int = 0
    temperature: float = 0.0
    """0: the likeliest token. Above: drawn from softmax(logits / temperature)."""

    def __post_init__(self):
        if self.num_tokens < 1 or self.temperature < 0:
            raise InputError(
                f"decoding: num_tokens={self.num_tokens}, temperature={self.temperature}: at least 1 and 0 expected"
            )


class Prompt(NamedTuple):
    """What a decoder reads before it writes: text alone, or pictures among it."""

    embeddings: Float[Array, "b n d"]
    valid: Bool[Array, "b n"]
    """False: padding, on either side."""
    mask: Mask
    rotation: Rotation
    next_position: Int[Array, "b"]
    """Of the first new token; those after it count on."""
    additions: Float[Array, "l b n d"] | None = None
    """As of `Decoder.hidden`."""


class Prefix(NamedTuple):
    """A prompt that was read."""

    cache: KeyValue
    valid: Bool[Array, "b n"]
    last: Float[Array, "b d"]
    """The output of each row's last valid token."""
    next_position: Int[Array, "b"]


def text_prompt(decoder: Decoder, ids: Int[Array, "b n"], valid: Bool[Array, "b n"]) -> Prompt:
    """Causal, positions counted over valid tokens. Ids of padding may be anything."""
    positions = jnp.maximum(jnp.cumsum(valid, axis=-1) - 1, 0)
    return Prompt(
        embeddings=decoder.embed(jnp.where(valid, ids, 0)),
        valid=valid,
        mask=masks.causal_over_valid(valid),
        rotation=decoder.rotation(positions),
        next_position=jnp.sum(valid, axis=-1),
    )


def prefill(decoder: Decoder, prompt: Prompt, room: int) -> Prefix:
    """Args: room: slots of the cache behind the prompt's."""
    every = Taps(projections=range(decoder.config.num_layers))
    out = decoder.hidden(
        prompt.embeddings, mask=prompt.mask, rotation=prompt.rotation, taps=every, additions=prompt.additions
    )
    assert out.projections is not None
    behind = ((0, 0), (0, 0), (0, room), (0, 0), (0, 0))
    cache = KeyValue(jnp.pad(out.projections.key, behind), jnp.pad(out.projections.value, behind))
    places = jnp.arange(prompt.valid.shape[-1])
    last = jnp.max(jnp.where(prompt.valid, places, 0), axis=-1)
    tokens = jnp.take_along_axis(out.tokens, last[:, None, None], axis=1)[:, 0]
    return Prefix(cache, prompt.valid, tokens, prompt.next_position)


def decode(
    decoder: Decoder, prefix: Prefix, config: DecodingConfig, key: Key[Array, ""] | None = None
) -> Int[Array, "b t"]:
    """The new tokens, NO_TOKEN where logits are not finite. `prefix` must have room for all but the last of them."""
    if (key is None) != (config.temperature == 0):
        raise InputError(f"decoding: temperature={config.temperature} and key={key}: a key where tokens are drawn")
    start, num_slots = prefix.valid.shape[-1], prefix.cache.key.shape[2]
    assert start + config.num_tokens - 1 <= num_slots, f"{num_slots} slots, {start} of them the prompt's"
    keys = None if key is None else jax.random.split(key, config.num_tokens)
    slots = jnp.arange(num_slots)
    valid = jnp.pad(prefix.valid, ((0, 0), (0, num_slots - start)))

    def one_more(carry, step):
        cache, token, is_done = carry
        index, own_key = step
        x, cache = decoder.step(
            decoder.embed(token[:, None]),
            cache,
            slot=start + index,
            mask=(valid | ((slots >= start) & (slots <= start + index)))[:, None],
            rotation=decoder.rotation((prefix.next_position + index)[:, None]),
        )
        token, is_done = _next(decoder.logits(x[:, 0]), is_done, config, own_key)
        return (cache, token, is_done), token

    nobody = jnp.zeros(prefix.last.shape[0], bool)
    first, is_done = _next(decoder.logits(prefix.last), nobody, config, None if keys is None else keys[0])
    steps = (jnp.arange(config.num_tokens - 1), None if keys is None else keys[1:])
    _, others = jax.lax.scan(one_more, (prefix.cache, first, is_done), steps)
    return jnp.concatenate([first[:, None], others.T], axis=1)


def generate(
    decoder: Decoder,
    ids: Int[Array, "b n"],
    valid: Bool[Array, "b n"],
    config: DecodingConfig,
    key: Key[Array, ""] | None = None,
) -> Int[Array, "b t"]:
    """Continues prompts of text. Args: valid: False where `ids` are padding. key: where tokens are drawn."""
    return decode(decoder, prefill(decoder, text_prompt(decoder, ids, valid), config.num_tokens - 1), config, key)


def _next(
    logits: Float[Array, "b v"], is_done: Bool[Array, "b"], config: DecodingConfig, key: Key[Array, ""] | None
) -> tuple[Int[Array, "b"], Bool[Array, "b"]]:
    """The token that follows, or NO_TOKEN, and which rows have ended with it."""
    logits = logits.astype(jnp.float32)
    chosen = jnp.argmax(logits, axis=-1) if key is None else jax.random.categorical(key, logits / config.temperature)
    chosen = jnp.where(jnp.isfinite(logits).all(axis=-1), chosen, NO_TOKEN)
    token = jnp.where(is_done, config.pad_id, chosen)
    return token, is_done | jnp.isin(token, jnp.array(config.end_ids, token.dtype))
