"""OpenVLA's vision-language model (Prismatic): fused picture features, a projector, Llama 2 with a padded vocabulary.

Axes: b batch, n text tokens, m picture tokens, s = n + m, e width of the features, d width of the language model.
Source: Kim et al. 2024 (arXiv 2406.09246), openvla `modeling_prismatic.py`; Karamcheti et al. 2024 (2402.07865).

The sequence is the first token (begin of text), the picture's tokens, the rest of the text; all causal. Padding stands
on the right. Actions are tokens of the vocabulary: `language/action_tokens.py`, `language/prompts.py`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8

from vla_jax.encoders import prismatic
from vla_jax.encoders.prismatic import Films, PrismaticConfig
from vla_jax.language import llama
from vla_jax.language.generation import Prompt
from vla_jax.language.llama import LlamaConfig
from vla_jax.nn import masks
from vla_jax.nn.linear import linear
from vla_jax.nn.mlp import ACTIVATIONS
from vla_jax.nn.norms import RmsNormConfig
from vla_jax.types import InputError

PROJECTOR = "no-align+fused-gelu-mlp"
"""`arch_specifier` of config.json: three layers with exact GELU, the first four times as wide as the features."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenVlaConfig:
    vision: PrismaticConfig
    language: LlamaConfig

    def build(self, rngs: nnx.Rngs) -> "OpenVla":
        return OpenVla(self, rngs=rngs)

    def settings(self) -> dict[str, Any]:
        """What OpenVLA's `config.json` says, in its own words."""
        return self.vision.settings() | {"arch_specifier": PROJECTOR, "text_config": self.language.settings()}


class OpenVla(nnx.Module):
    def __init__(self, config: OpenVlaConfig, *, rngs: nnx.Rngs):
        width = config.language.decoder.width
        self.vision = config.vision.build(rngs)
        self.projector = Projector(config.vision.width, width, rngs=rngs)
        self.language = config.language.build(rngs)

    def picture_tokens(
        self,
        images: UInt8[Array, "b y x 3"],
        films: Films | None = None,
        condition: Float[Array, "b c"] | None = None,
    ) -> Float[Array, "b m d"]:
        """Args: films, condition: as of the vision encoder (OpenVLA-OFT's FiLM)."""
        return self.projector(self.vision(images, films, condition).tokens)

    def embed(self, ids: Int[Array, "b n"], pictures: Float[Array, "b m d"]) -> Float[Array, "b s d"]:
        """First token, pictures, the other tokens."""
        words = self.language.embed(ids)
        return jnp.concatenate([words[:, :1], pictures.astype(words.dtype), words[:, 1:]], axis=1)

    def prompt(
        self,
        ids: Int[Array, "b n"],
        valid: Bool[Array, "b n"],
        pictures: Float[Array, "b m d"],
        seen: Bool[Array, "b m"] | None = None,
    ) -> Prompt:
        """What `language.generation` continues.

        Args: valid: False where `ids` are padding, on the right. seen: False where there is no such picture; None: all
        are there.
        """
        seen = jnp.ones(pictures.shape[:2], bool) if seen is None else seen
        all_valid = jnp.concatenate([valid[:, :1], seen, valid[:, 1:]], axis=1)
        positions = jnp.maximum(jnp.cumsum(all_valid, axis=-1) - 1, 0)
        return Prompt(
            embeddings=self.embed(jnp.where(valid, ids, 0), pictures),
            valid=all_valid,
            mask=masks.causal_over_valid(all_valid),
            rotation=self.language.rotation(positions),
            next_position=jnp.sum(all_valid, axis=-1),
        )


class Projector(nnx.Module):
    def __init__(self, in_width: int, out_width: int, *, rngs: nnx.Rngs):
        self.first = linear(in_width, 4 * in_width, ("embed", "mlp"), rngs=rngs)
        self.second = linear(4 * in_width, out_width, ("mlp", "embed"), rngs=rngs)
        self.third = linear(out_width, out_width, ("embed", "feature"), rngs=rngs)

    def __call__(self, features: Float[Array, "b m e"]) -> Float[Array, "b m d"]:
        gelu = ACTIVATIONS["gelu"]
        return self.third(gelu(self.second(gelu(self.first(features)))))


def from_settings(settings: Mapping[str, Any]) -> OpenVlaConfig:
    """The model whose `settings()` these are."""
    if settings["arch_specifier"] != PROJECTOR:
        raise InputError(f"config.json: arch_specifier is {settings['arch_specifier']!r}, expected {PROJECTOR!r}")
    return OpenVlaConfig(
        vision=prismatic.from_settings(settings), language=llama.from_settings(settings["text_config"])
    )


def openvla_7b() -> OpenVlaConfig:
    """As transformers reads a `text_config` that names the vocabulary alone: LlamaConfig's defaults hold, epsilon 1e-6.

    Llama 2 itself has 1e-5. That the released file names no other key is recalled, not checked against the file.
    """
    decoder = llama.llama2_7b().decoder
    read = dataclasses.replace(decoder, vocab_size=32064, max_length=2048, norm=RmsNormConfig(epsilon=1e-6))
    return OpenVlaConfig(vision=prismatic.dinosiglip_224(), language=LlamaConfig(decoder=read))


PRESETS = {"openvla_7b": openvla_7b}


def tiny() -> OpenVlaConfig:
    """The CPU twin."""
    return OpenVlaConfig(vision=prismatic.tiny(), language=llama.tiny())
