"""Llama 2: the decoder core as it is.

Source: Touvron et al. 2023; sizes and constants are those of the releases' config.json, which are not the defaults of
transformers' LlamaConfig (epsilon 1e-6 there, 1e-5 here).
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
class LlamaConfig:
    decoder: DecoderConfig

    def build(self, rngs: nnx.Rngs) -> Decoder:
        return self.decoder.build(rngs)

    def settings(self) -> dict[str, Any]:
        """What `config.json` of a Hugging Face folder with these weights says, in its own words."""
        return release_settings(self.decoder) | {"attention_bias": bool(self.decoder.biases), "mlp_bias": False}


def from_settings(settings: Mapping[str, Any]) -> LlamaConfig:
    """The model whose `settings()` these are."""
    biases = ALL_PROJECTIONS if settings["attention_bias"] else ()
    return LlamaConfig(decoder=DecoderConfig(**decoder_fields(settings, mlp_bias=False), biases=biases))


def llama2_7b() -> LlamaConfig:
    return _release(width=4096, num_layers=32, num_heads=32, mlp_width=11008)


def llama2_13b() -> LlamaConfig:
    return _release(width=5120, num_layers=40, num_heads=40, mlp_width=13824)


PRESETS = {"llama2_7b": llama2_7b, "llama2_13b": llama2_13b}


def tiny() -> LlamaConfig:
    """The CPU twin: grouped heads, and sizes that differ from one another."""
    decoder = dataclasses.replace(
        _release(width=24, num_layers=3, num_heads=4, mlp_width=40).decoder,
        num_key_value_heads=2,
        head_width=10,
        vocab_size=99,
        max_length=64,
    )
    return LlamaConfig(decoder=decoder)


def _release(*, width: int, num_layers: int, num_heads: int, mlp_width: int) -> LlamaConfig:
    decoder = DecoderConfig(
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        num_key_value_heads=num_heads,
        head_width=width // num_heads,
        mlp_width=mlp_width,
        vocab_size=32000,
        max_length=4096,
        norm=RmsNormConfig(epsilon=1e-5),
    )
    return LlamaConfig(decoder=decoder)
