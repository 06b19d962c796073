"""Gemma 1 as Hugging Face releases store it: GemmaForCausalLM, or GemmaModel alone without the prefix `model.`."""

from collections.abc import Mapping
from typing import Any

from vla_jax.convert.decoder_settings import IGNORED, TIED, canonical_name, decoder_rules, decoder_settings
from vla_jax.convert.rules import Family

DEFAULTS = {
    "model_type": "gemma",
    "vocab_size": 256000,
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "use_bidirectional_attention": False,
}


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The releases' own files say `gelu` and mean its tanh approximation, as transformers reads them."""
    found = decoder_settings(config, DEFAULTS)
    found["use_bidirectional_attention"] = (
        found["use_bidirectional_attention"] or False
    )  # None is transformers' silence
    return found | {"hidden_act": "gelu_pytorch_tanh"} if found["hidden_act"] == "gelu" else found


FAMILY = Family(
    rules=tuple(decoder_rules()), ignored=IGNORED, canonical_name=canonical_name, settings=settings, tied=TIED
)
