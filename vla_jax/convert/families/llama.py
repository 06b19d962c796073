"""Llama as Hugging Face releases store it: LlamaForCausalLM, or LlamaModel alone without the prefix `model.`."""

from collections.abc import Mapping
from typing import Any

from vla_jax.convert.decoder_settings import (
    IGNORED,
    PROJECTIONS,
    TIED,
    bias_rules,
    canonical_name,
    decoder_rules,
    decoder_settings,
)
from vla_jax.convert.rules import Family

DEFAULTS = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "mlp_bias": False,
}


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return decoder_settings(config, DEFAULTS)


FAMILY = Family(
    rules=(*decoder_rules(), *bias_rules(PROJECTIONS, "attention_bias")),
    ignored=IGNORED,
    canonical_name=canonical_name,
    settings=settings,
    tied=TIED,
)
