"""Gemma 1, also as PaliGemma has it: GeGLU, scales stored around zero, embeddings times the root of the width.

Source: Gemma team 2024 (arXiv 2403.08295), PaliGemma (arXiv 2407.07726); sizes and constants are those of the
releases' config.json.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from flax import nnx

from vla_jax.language.decoder import Decoder, DecoderConfig
from vla_jax.language.release_settings import decoder_fields, release_settings
from vla_jax.nn.norms import RmsNormConfig

PALIGEMMA_VOCAB_SIZE = 257152
"""Gemma's, then 1024 locations, 128 segments, and what fills it up."""
FIXED = {"attention_bias": False, "use_bidirectional_attention": False}
"""What all releases say; EmbeddingGemma and the like, which see both ways, are other models."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GemmaConfig:
    decoder: DecoderConfig

    def build(self, rngs: nnx.Rngs) -> Decoder:
        return self.decoder.build(rngs)

    def settings(self) -> dict[str, Any]:
        """What `config.json` of a Hugging Face folder with these weights says, in its own words."""
        return release_settings(self.decoder) | FIXED


def from_settings(settings: Mapping[str, Any]) -> GemmaConfig:
    """The model whose `settings()` these are."""
    fields = decoder_fields(settings, **FIXED)
    fields["norm"] = dataclasses.replace(fields["norm"], offset=1.0)
    return GemmaConfig(decoder=DecoderConfig(**fields, embedding_factor=math.sqrt(fields["width"])))


def gemma_2b() -> GemmaConfig:
    return _release(width=2048, num_layers=18, num_heads=8, num_key_value_heads=1, mlp_width=16384)


def gemma_7b() -> GemmaConfig:
    return _release(width=3072, num_layers=28, num_heads=16, num_key_value_heads=16, mlp_width=24576)


def paligemma_2b() -> GemmaConfig:
    """The language model of PaliGemma 3B."""
    return GemmaConfig(decoder=dataclasses.replace(gemma_2b().decoder, vocab_size=PALIGEMMA_VOCAB_SIZE))


PRESETS = {"gemma_2b": gemma_2b, "gemma_7b": gemma_7b, "paligemma_2b": paligemma_2b}


def tiny() -> GemmaConfig:
    """The CPU twin: sizes that differ from one another."""
    release = _release(width=24, num_layers=3, num_heads=4, num_key_value_heads=2, mlp_width=40)
    return GemmaConfig(decoder=dataclasses.replace(release.decoder, head_width=10, vocab_size=99, max_length=64))


def _release(*, width: int, num_layers: int, num_heads: int, num_key_value_heads: int, mlp_width: int) -> GemmaConfig:
    decoder = DecoderConfig(
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        num_key_value_heads=num_key_value_heads,
        head_width=256,
        mlp_width=mlp_width,
        vocab_size=256000,
        max_length=8192,
        norm=RmsNormConfig(epsilon=1e-6, offset=1.0),
        activation="gelu_tanh",
        embedding_factor=math.sqrt(width),
        tied_head=True,
    )
    return GemmaConfig(decoder=decoder)
