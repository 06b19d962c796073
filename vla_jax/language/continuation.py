"""A prompt with further embeddings behind it, in one pass: teacher forcing, and parallel decoding.

Axes: b batch, n tokens of the prompt, q further tokens, s = n + q, d width, f head width.

Padding may stand between the prompt's last token and the further ones: it is masked, and positions count valid tokens
only, so that every valid token has what it would have without padding. `language/generation.py` writes its tokens in
the same places; what teacher forcing reads is therefore what decoding reads.
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from vla_jax.language.decoder import Decoder
from vla_jax.language.generation import Prompt
from vla_jax.nn import masks
from vla_jax.nn.rotary import Rotation
from vla_jax.types import SelfMask

Attention = Literal["causal", "all"]
"""`all`: every token sees every valid one, the prompt's the further ones too (OpenVLA-OFT)."""


class Continuation(NamedTuple):
    embeddings: Float[Array, "b s d"]
    mask: SelfMask
    rotation: Rotation


def continuation(
    decoder: Decoder, prompt: Prompt, embeddings: Float[Array, "b q d"], attention: Attention = "causal"
) -> Continuation:
    """Args: embeddings: of tokens that are all valid."""
    assert prompt.additions is None, "additions to outputs (DeepStack) are not carried on"
    count = embeddings.shape[1]
    valid = jnp.pad(prompt.valid, ((0, 0), (0, count)), constant_values=True)
    own = decoder.rotation(prompt.next_position[:, None] + jnp.arange(count))
    parts = zip(prompt.rotation, own, strict=True)
    mask = masks.causal_over_valid(valid) if attention == "causal" else masks.all_over_valid(valid)
    return Continuation(
        embeddings=jnp.concatenate([prompt.embeddings, embeddings.astype(prompt.embeddings.dtype)], axis=1),
        mask=mask,
        rotation=Rotation(*(jnp.concatenate(pair, axis=1) for pair in parts)),
    )


def outputs_before(prompt: Prompt, outputs: Float[Array, "b s d"], count: int) -> Float[Array, "b k d"]:
    """The outputs that predict the first `count` further tokens: of the prompt's last valid token, then of theirs."""
    length = prompt.valid.shape[1]
    last = jnp.max(jnp.where(prompt.valid, jnp.arange(length), 0), axis=-1)
    first = jnp.take_along_axis(outputs, last[:, None, None], axis=1)
    return jnp.concatenate([first, outputs[:, length : length + count - 1]], axis=1)
