"""config.json and the names of decoder language models: what Llama, Qwen and Gemma share.

Releases say `rope_theta` and `rope_scaling`; transformers 5 writes both as `rope_parameters`. Facts: transformers 5.23
`models/{llama,qwen2,qwen3,gemma}` and `modeling_rope_utils.py`.
"""

from collections.abc import Mapping
from typing import Any

from vla_jax.convert.defaults import check_model_type
from vla_jax.convert.module_rules import decoder_blocks, kernel, scale, table
from vla_jax.convert.rules import Rule
from vla_jax.types import InputError

PREFIX, HEAD, TABLE = "model.", "lm_head.weight", "model.embed_tokens.weight"
BLOCKS = "model.layers.{layer}"
IGNORED = (r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",)
"""Written by early versions of transformers, made from rope_theta since."""
TIED = {HEAD: TABLE}
PROJECTIONS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out"}
"""Of attention, theirs -> ours."""


def decoder_rules() -> list[Rule]:
    """Without what only some models have: biases, norms of the heads."""
    return [
        table(TABLE, "tokens"),
        *decoder_blocks(BLOCKS, "stack/blocks"),
        scale("model.norm", "final_norm"),
        kernel("lm_head", "head", "head"),
    ]


def bias_rules(names: Mapping[str, str], part: str) -> list[Rule]:
    """Args: names: of the projections, theirs -> ours."""
    return [
        table(f"{BLOCKS}.self_attn.{theirs}.bias", f"stack/blocks/attention/{ours}/bias", part)
        for theirs, ours in names.items()
    ]


def canonical_name(name: str, config: Mapping[str, Any]) -> str:
    """A base model saved alone (`LlamaModel`) lacks the prefix."""
    return name if name == HEAD or name.startswith(PREFIX) else PREFIX + name


def decoder_settings(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """config.json as transformers would read it, in the releases' words.

    Args: defaults: what transformers assumes where config.json is silent; `rope_theta` among them.
    Raises: InputError: a model of another kind, or layers that attend through a sliding window.
    """
    check_model_type(config, defaults["model_type"])
    found = {**defaults, **config}
    if found.get("num_key_value_heads") is None:
        found["num_key_value_heads"] = found["num_attention_heads"]
    if found.get("head_dim") is None:
        found["head_dim"] = found["hidden_size"] // found["num_attention_heads"]
    if windowed := sorted(set(found.get("layer_types") or ()) - {"full_attention"}):
        raise InputError(f"config.json: layer_types has {windowed}, expected 'full_attention' alone")
    return found | _rotary(found)


def _rotary(found: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_scaling` is None where positions are not scaled."""
    parameters = dict(found.get("rope_scaling") or found.get("rope_parameters") or {})
    theta = parameters.pop("rope_theta", found["rope_theta"])
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    is_plain = kind == "default" and not parameters.keys() - {"rope_type", "type"}
    return {"rope_theta": float(theta), "rope_scaling": None if is_plain else parameters}
