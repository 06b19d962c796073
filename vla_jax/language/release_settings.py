"""What config.json says of a decoder, in the words that the releases of all language models share.

Rotary positions are `rope_theta` and `rope_scaling`, as releases have them and every transformers reads them; a weight
family's `settings` brings the form of transformers 5 (`rope_parameters`) into it.
"""

from collections.abc import Mapping
from typing import Any

from vla_jax.language.decoder import DecoderConfig
from vla_jax.nn.mlp import ACTIVATION_NAMES, activation_of
from vla_jax.nn.norms import RmsNormConfig
from vla_jax.types import InputError

SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "intermediate_size": "mlp_width",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_key_value_heads",
    "head_dim": "head_width",
    "max_position_embeddings": "max_length",
    "rope_theta": "theta",
    "tie_word_embeddings": "tied_head",
}
"""transformers' words -> ours."""


def release_settings(config: DecoderConfig) -> dict[str, Any]:
    return {theirs: getattr(config, ours) for theirs, ours in SIZES.items()} | {
        "hidden_act": ACTIVATION_NAMES[config.activation],
        "rms_norm_eps": config.norm.epsilon,
        "rope_scaling": None,
    }


def decoder_fields(settings: Mapping[str, Any], **only: Any) -> dict[str, Any]:
    """The fields of `DecoderConfig` that `settings` tell. Norms have no offset.

    Args: only: further words of config.json, with the one value that the family supports.
    Raises: InputError: a setting that is not supported.
    """
    for key, value in {"rope_scaling": None, **only}.items():
        if settings[key] != value:
            raise InputError(f"config.json: {key} is {settings[key]!r}, expected {value!r}; nothing else is supported")
    return {ours: settings[theirs] for theirs, ours in SIZES.items()} | {
        "activation": activation_of(settings),
        "norm": RmsNormConfig(epsilon=settings["rms_norm_eps"]),
    }
