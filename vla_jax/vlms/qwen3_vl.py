"""Qwen3-VL: its vision tower, and its text model with pictures among the words (DeepStack, M-RoPE).

Axes: b batch, n tokens, m picture tokens of a sample, q further tokens, k DeepStack levels, l layers, d width.
Source: Qwen3-VL technical report (arXiv 2511.21631); transformers 5.23 `models/qwen3_vl`.

    pictures = model.vision(images)                       # pictures [b, y, x, 3]
    inputs = model.inputs(ids, valid, [pictures])         # an image token in `ids` for each merged patch
    inputs = model.sequence([before, pictures, words])    # the same, where all samples have them at the same places
    inputs = inputs.followed_by(jnp.zeros((b, q, d)))     # e.g. the action tokens of QwenVLA-OFT
    lower = model.hidden(inputs, mask=mask, span=(0, 20))
    upper = model.hidden(inputs._replace(embeddings=lower.tokens), mask=mask, span=(20, None), extra=expert)

Differs: stills only, and every sample of a batch has the same pictures' sizes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from vla_jax.encoders import qwen3_vl as vision_module
from vla_jax.encoders.qwen3_vl import PictureTokens, Qwen3VlVisionConfig
from vla_jax.language import qwen3_vl as text_module
from vla_jax.language.generation import Prompt
from vla_jax.language.picture_positions import next_position, picture_positions
from vla_jax.language.qwen3_vl import Qwen3VlText, Qwen3VlTextConfig
from vla_jax.nn import masks
from vla_jax.nn.attention import KeyValue
from vla_jax.nn.stack import NO_TAPS, WHOLE, Span, StackOutput, Taps
from vla_jax.types import InputError, Mask


class Inputs(NamedTuple):
    """What the language model reads."""

    embeddings: Float[Array, "b n d"]
    positions: Int[Array, "3 b n"]
    """In time, height and width."""
    valid: Bool[Array, "b n"]
    additions: Float[Array, "k b n d"]
    """DeepStack: what is added to the outputs of the first layers; zero where there is no picture."""

    def followed_by(self, embeddings: Float[Array, "b q d"]) -> "Inputs":
        """With further tokens, whose positions count on as text's do."""
        batch, count, _ = embeddings.shape
        positions = next_position(self.positions)[:, None] + jnp.arange(count)
        return Inputs(
            embeddings=jnp.concatenate([self.embeddings, embeddings.astype(self.embeddings.dtype)], axis=1),
            positions=jnp.concatenate([self.positions, jnp.broadcast_to(positions, (3, batch, count))], axis=2),
            valid=jnp.pad(self.valid, ((0, 0), (0, count)), constant_values=True),
            additions=jnp.pad(self.additions, ((0, 0), (0, 0), (0, count), (0, 0))),
        )


class Words(NamedTuple):
    """A stretch of text, each sample's own."""

    ids: Int[Array, "b t"]
    valid: Bool[Array, "b t"]
    """False where `ids` are padding; ids there may be anything."""


Part = Int[np.ndarray, "_"] | Words | PictureTokens
"""Of a sequence: ids that all samples have, each sample's own words, or a picture of each."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen3VlConfig:
    """Either half may be left out."""

    vision: Qwen3VlVisionConfig | None
    language: Qwen3VlTextConfig | None
    image_id: int = 151655
    """The token that stands for each merged patch of a picture."""

    def __post_init__(self):
        if self.vision is None or self.language is None:
            return
        found, expected = self.vision.out_width, self.language.decoder.width
        if found != expected:
            raise InputError(f"config.json: vision_config.out_hidden_size is {found}, text_config's width {expected}")
        if len(self.vision.deepstack) > self.language.decoder.num_layers:
            raise InputError(f"deepstack={self.vision.deepstack}: more levels than the language model has layers")

    def build(self, rngs: nnx.Rngs) -> "Qwen3Vl":
        return Qwen3Vl(self, rngs=rngs)

    def settings(self) -> dict[str, Any]:
        """What `config.json` of a Hugging Face folder with these weights says, in its own words."""
        settings: dict[str, Any] = {"image_token_id": self.image_id}
        if self.vision is not None:
            settings["vision_config"] = self.vision.settings()
        if self.language is not None:
            settings["text_config"] = self.language.settings()
            settings["tie_word_embeddings"] = self.language.decoder.tied_head
        return settings


class Qwen3Vl(nnx.Module):
    def __init__(self, config: Qwen3VlConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.vision = None if config.vision is None else config.vision.build(rngs)
        self.language = None if config.language is None else config.language.build(rngs)

    @property
    def text(self) -> Qwen3VlText:
        assert self.language is not None, "the language model was left out"
        return self.language

    def inputs(self, ids: Int[Array, "b n"], valid: Bool[Array, "b n"], pictures: Sequence[PictureTokens]) -> Inputs:
        """Text with pictures' tokens at the places of image tokens.

        A sample whose image tokens are not as many as its pictures' tokens is NaN, never another picture's.

        Args:
            ids: with an image token for each merged patch, row by row.
            valid: False where `ids` are padding, on either side; ids there may be anything.
            pictures: in the order of the text. One of them may hold several pictures of each sample, all of one size,
                side by side in its batch axis: (b p).
        """
        tokens, deepstack, grids = _side_by_side(pictures, len(ids))
        is_picture = valid & (ids == self.config.image_id)
        order = jnp.clip(jnp.cumsum(is_picture, axis=-1) - 1, 0, tokens.shape[1] - 1)[..., None]
        is_whole = (jnp.sum(is_picture, axis=-1) == tokens.shape[1])[:, None, None]
        words = self.text.embed(jnp.where(valid, ids, 0))
        seen = jnp.take_along_axis(tokens, order, axis=1).astype(words.dtype)
        added = jnp.take_along_axis(deepstack, order[None], axis=2).astype(words.dtype)
        return Inputs(
            embeddings=jnp.where(is_whole, jnp.where(is_picture[..., None], seen, words), jnp.nan),
            positions=picture_positions(valid, is_picture, grids),
            valid=valid,
            additions=jnp.where(is_picture[..., None], added, 0),
        )

    def sequence(self, parts: Sequence[Part]) -> Inputs:
        """Text and pictures one after another: as `inputs`, where every sample has them at the same places.

        Nothing is looked up where pictures stand, and what all samples have is looked up once: the gradient of a
        lookup brings a row of each id of the global batch to the table.

        Args: parts: ids that all samples have and the samples' own words among them.
        """
        batch = next(len(part.ids) for part in parts if isinstance(part, Words))
        levels = 0 if self.config.vision is None else len(self.config.vision.deepstack)
        common = self.text.embed(jnp.asarray(np.concatenate([ids for ids in parts if isinstance(ids, np.ndarray)])))
        pieces, start = [], 0
        for part in parts:
            if isinstance(part, PictureTokens):
                pieces.append(_of_picture(part, common.dtype))
            elif isinstance(part, Words):
                rows = self.text.embed(jnp.where(part.valid, part.ids, 0))
                pieces.append(_of_text(rows, part.valid, levels))
            else:
                rows = common[start : (start := start + len(part))]
                rows = jnp.broadcast_to(rows, (batch, *rows.shape))
                pieces.append(_of_text(rows, jnp.ones(rows.shape[:2], bool), levels))
        embeddings, valid, is_picture = (
            jnp.concatenate([getattr(piece, name) for piece in pieces], axis=1)
            for name in ("embeddings", "valid", "is_picture")
        )
        grids = [(part.merged.rows, part.merged.columns) for part in parts if isinstance(part, PictureTokens)]
        return Inputs(
            embeddings=embeddings,
            positions=picture_positions(valid, is_picture, grids),
            valid=valid,
            additions=jnp.concatenate([piece.additions for piece in pieces], axis=2),
        )

    def hidden(
        self,
        inputs: Inputs,
        *,
        mask: Mask | None,
        taps: Taps = NO_TAPS,
        extra: KeyValue | None = None,
        span: Span = WHOLE,
    ) -> StackOutput:
        """As `Decoder.hidden`; the layers of `span` that DeepStack adds to are found here, by their index."""
        start, stop = self.text.stack.bounds(span)
        additions = inputs.additions[start:stop]
        return self.text.hidden(
            inputs.embeddings,
            mask=mask,
            rotation=self.text.rotation(inputs.positions),
            taps=taps,
            extra=extra,
            additions=additions if len(additions) else None,
            span=span,
        )

    def logits(self, hidden: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
        return self.text.logits(hidden)

    def prompt(self, inputs: Inputs) -> Prompt:
        """Causal: what `language.generation` continues."""
        return Prompt(
            embeddings=inputs.embeddings,
            valid=inputs.valid,
            mask=masks.causal_over_valid(inputs.valid),
            rotation=self.text.rotation(inputs.positions),
            next_position=next_position(inputs.positions),
            additions=inputs.additions,
        )


class _Piece(NamedTuple):
    embeddings: Float[Array, "b t d"]
    valid: Bool[Array, "b t"]
    is_picture: Bool[Array, "b t"]
    additions: Float[Array, "k b t d"]


def _of_text(rows: Float[Array, "b t d"], valid: Bool[Array, "b t"], levels: int) -> _Piece:
    return _Piece(rows, valid, jnp.zeros_like(valid), jnp.zeros((levels, *rows.shape), rows.dtype))


def _of_picture(picture: PictureTokens, dtype: Any) -> _Piece:
    is_picture = jnp.ones(picture.merged.tokens.shape[:2], bool)
    return _Piece(picture.merged.tokens.astype(dtype), is_picture, is_picture, picture.deepstack.astype(dtype))


def _side_by_side(
    pictures: Sequence[PictureTokens], batch: int
) -> tuple[Float[Array, "b m d"], Float[Array, "k b m d"], list[tuple[int, int]]]:
    """All pictures of a sample, one after another: tokens, DeepStack, and each picture's grid."""
    tokens, deepstack, grids = [], [], []
    for picture in pictures:
        merged = picture.merged
        assert len(merged.tokens) % batch == 0, f"{len(merged.tokens)} pictures of {batch} samples"
        tokens.append(rearrange(merged.tokens, "(b p) m d -> b (p m) d", b=batch))
        deepstack.append(rearrange(picture.deepstack, "k (b p) m d -> k b (p m) d", b=batch))
        grids += [(merged.rows, merged.columns)] * (len(merged.tokens) // batch)
    return jnp.concatenate(tokens, axis=1), jnp.concatenate(deepstack, axis=2), grids


def from_settings(settings: Mapping[str, Any]) -> Qwen3VlConfig:
    """The model whose `settings()` these are; a half whose section is absent is left out."""
    vision, text = (settings.get(section) for section in ("vision_config", "text_config"))
    return Qwen3VlConfig(
        vision=None if vision is None else vision_module.from_settings(vision),
        language=None if text is None else text_module.from_settings(text),
        image_id=settings["image_token_id"],
    )


def qwen3_vl_2b() -> Qwen3VlConfig:
    return Qwen3VlConfig(vision=vision_module.qwen3_vl_2b(), language=text_module.qwen3_vl_2b())


def qwen3_vl_4b() -> Qwen3VlConfig:
    return Qwen3VlConfig(vision=vision_module.qwen3_vl_4b(), language=text_module.qwen3_vl_4b())


def qwen3_vl_8b() -> Qwen3VlConfig:
    return Qwen3VlConfig(vision=vision_module.qwen3_vl_8b(), language=text_module.qwen3_vl_8b())


PRESETS = {"qwen3_vl_2b": qwen3_vl_2b, "qwen3_vl_4b": qwen3_vl_4b, "qwen3_vl_8b": qwen3_vl_8b}


def tiny() -> Qwen3VlConfig:
    """The CPU twin."""
    return Qwen3VlConfig(vision=vision_module.tiny(), language=text_module.tiny(), image_id=95)


def tiny_with_words() -> Qwen3VlConfig:
    """The CPU twin, with room for the ids of the built-in tokenizer."""
    config = tiny()
    assert config.language is not None
    decoder = dataclasses.replace(config.language.decoder, vocab_size=520)
    return dataclasses.replace(config, language=dataclasses.replace(config.language, decoder=decoder), image_id=515)


def small(*, image_size: int, patch_size: int, width: int, num_layers: int) -> Qwen3VlConfig:
    """To be trained from nothing on a CPU, with the built-in tokenizer: 512 ids, and those around pictures."""
    tower = vision_module.small(
        image_size=image_size, patch_size=patch_size, width=width, num_layers=1, out_width=width
    )
    language = text_module.small(width=width, num_layers=num_layers, vocab_size=520)
    return Qwen3VlConfig(vision=tower, language=language, image_id=512)
