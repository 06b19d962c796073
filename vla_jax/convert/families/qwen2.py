"""Qwen2 and Qwen2.5 as Hugging Face releases store them: Qwen2ForCausalLM, or Qwen2Model without `model.`."""

from collections.abc import Mapping
from typing import Any

from vla_jax.convert.decoder_settings import IGNORED, TIED, bias_rules, canonical_name, decoder_rules, decoder_settings
from vla_jax.convert.rules import Family

DEFAULTS = {
    "model_type": "qwen2",
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "use_sliding_window": False,
}
BIASES = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return decoder_settings(config, DEFAULTS)


FAMILY = Family(
    rules=(*decoder_rules(), *bias_rules(BIASES, "")),
    ignored=IGNORED,
    canonical_name=canonical_name,
    settings=settings,
    tied=TIED,
)
