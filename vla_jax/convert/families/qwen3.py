"""Qwen3 as Hugging Face releases store it: Qwen3ForCausalLM, or Qwen3Model alone without the prefix `model.`."""

from collections.abc import Mapping
from typing import Any

from vla_jax.convert.decoder_settings import (
    BLOCKS,
    IGNORED,
    PROJECTIONS,
    TIED,
    bias_rules,
    canonical_name,
    decoder_rules,
    decoder_settings,
)
from vla_jax.convert.module_rules import scale
from vla_jax.convert.rules import Family

DEFAULTS = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "use_sliding_window": False,
}


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return decoder_settings(config, DEFAULTS)


FAMILY = Family(
    rules=(
        *decoder_rules(),
        *bias_rules(PROJECTIONS, "attention_bias"),
        scale(f"{BLOCKS}.self_attn.q_norm", "stack/blocks/attention/query_norm"),
        scale(f"{BLOCKS}.self_attn.k_norm", "stack/blocks/attention/key_norm"),
    ),
    ignored=IGNORED,
    canonical_name=canonical_name,
    settings=settings,
    tied=TIED,
)
