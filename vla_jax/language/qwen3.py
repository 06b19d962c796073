"""Qwen3: the decoder core with grouped heads whose queries and keys are normed before they are rotated.

Source: Qwen team 2025 (arXiv 2505.09388); sizes and constants are those of the releases' config.json.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import nnx

from vla_jax.language.decoder import Decoder, DecoderConfig
from vla_jax.language.release_settings import decoder_fields, release_settings
from vla_jax.nn.attention import ALL_PROJECTIONS
from vla_jax.nn.norms import RmsNormConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen3Config:
    decoder: DecoderConfig

    def build(self, rngs: nnx.Rngs) -> Decoder:
        return self.decoder.build(rngs)

    def settings(self) -> dict[str, Any]:
        """What `config.json` of a Hugging Face folder with these weights says, in its own words."""
        own = {"attention_bias": bool(self.decoder.biases), "use_sliding_window": False}
        return release_settings(self.decoder) | own


def from_settings(settings: Mapping[str, Any]) -> Qwen3Config:
    """The model whose `settings()` these are."""
    fields = decoder_fields(settings, use_sliding_window=False)
    biases = ALL_PROJECTIONS if settings["attention_bias"] else ()
    return Qwen3Config(decoder=DecoderConfig(**fields, biases=biases, head_norm=fields["norm"]))


def qwen3_0_6b() -> Qwen3Config:
    return _release(width=1024, num_layers=28, num_heads=16, mlp_width=3072)


def qwen3_1_7b() -> Qwen3Config:
    return _release(width=2048, num_layers=28, num_heads=16, mlp_width=6144)


def qwen3_4b() -> Qwen3Config:
    return _release(width=2560, num_layers=36, num_heads=32, mlp_width=9728)


def qwen3_8b() -> Qwen3Config:
    release = _release(width=4096, num_layers=36, num_heads=32, mlp_width=12288)
    return Qwen3Config(decoder=dataclasses.replace(release.decoder, tied_head=False))


PRESETS = {"qwen3_0_6b": qwen3_0_6b, "qwen3_1_7b": qwen3_1_7b, "qwen3_4b": qwen3_4b, "qwen3_8b": qwen3_8b}


def tiny() -> Qwen3Config:
    """The CPU twin: sizes that differ from one another."""
    release = _release(width=24, num_layers=3, num_heads=4, mlp_width=40)
    decoder = dataclasses.replace(release.decoder, num_key_value_heads=2, head_width=10, vocab_size=99, max_length=64)
    return Qwen3Config(decoder=decoder)


def _release(*, width: int, num_layers: int, num_heads: int, mlp_width: int) -> Qwen3Config:
    decoder = DecoderConfig(
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        num_key_value_heads=8,
        head_width=128,
        mlp_width=mlp_width,
        vocab_size=151936,
        max_length=40960,
        theta=1e6,
        norm=RmsNormConfig(epsilon=1e-6),
        head_norm=RmsNormConfig(epsilon=1e-6),
        tied_head=True,
    )
    return Qwen3Config(decoder=decoder)
