"""Qwen2.5: the decoder core with grouped heads and biases on queries, keys and values.

Source: Qwen team 2024 (arXiv 2412.15115); sizes and constants are those of the base releases' config.json.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import nnx

from vla_jax.language.decoder import Decoder, DecoderConfig
from vla_jax.language.release_settings import decoder_fields, release_settings
from vla_jax.nn.attention import Projection
from vla_jax.nn.norms import RmsNormConfig

BIASES: tuple[Projection, ...] = ("query", "key", "value")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen2Config:
    decoder: DecoderConfig

    def build(self, rngs: nnx.Rngs) -> Decoder:
        return self.decoder.build(rngs)

    def settings(self) -> dict[str, Any]:
        """What `config.json` of a Hugging Face folder with these weights says, in its own words."""
        return release_settings(self.decoder) | {"use_sliding_window": False}


def from_settings(settings: Mapping[str, Any]) -> Qwen2Config:
    """The model whose `settings()` these are."""
    return Qwen2Config(decoder=DecoderConfig(**decoder_fields(settings, use_sliding_window=False), biases=BIASES))


def qwen2_5_0_5b() -> Qwen2Config:
    return _release(width=896, num_layers=24, num_heads=14, num_key_value_heads=2, mlp_width=4864)


def qwen2_5_1_5b() -> Qwen2Config:
    return _release(width=1536, num_layers=28, num_heads=12, num_key_value_heads=2, mlp_width=8960, max_length=131072)


def qwen2_5_3b() -> Qwen2Config:
    return _release(width=2048, num_layers=36, num_heads=16, num_key_value_heads=2, mlp_width=11008)


def qwen2_5_7b() -> Qwen2Config:
    release = _release(
        width=3584, num_layers=28, num_heads=28, num_key_value_heads=4, mlp_width=18944, max_length=131072
    )
    return Qwen2Config(decoder=dataclasses.replace(release.decoder, vocab_size=152064, tied_head=False))


PRESETS = {
    "qwen2_5_0_5b": qwen2_5_0_5b,
    "qwen2_5_1_5b": qwen2_5_1_5b,
    "qwen2_5_3b": qwen2_5_3b,
    "qwen2_5_7b": qwen2_5_7b,
}


def tiny() -> Qwen2Config:
    """The CPU twin: sizes that differ from one another."""
    release = _release(width=24, num_layers=3, num_heads=4, num_key_value_heads=2, mlp_width=40, max_length=64)
    return Qwen2Config(decoder=dataclasses.replace(release.decoder, vocab_size=99))


def _release(
    *,
    width: int,
    num_layers: int,
    num_heads: int,
    num_key_value_heads: int,
    mlp_width: int,
    max_length: int = 32768,
) -> Qwen2Config:
    decoder = DecoderConfig(
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        num_key_value_heads=num_key_value_heads,
        head_width=width // num_heads,
        mlp_width=mlp_width,
        vocab_size=151936,
        max_length=max_length,
        theta=1e6,
        norm=RmsNormConfig(epsilon=1e-6),
        biases=BIASES,
        tied_head=True,
    )
    return Qwen2Config(decoder=decoder)
