"""Qwen3-VL as Hugging Face releases store it: Qwen3VLForConditionalGeneration, of which either half may be left out.

Facts about names and defaults: transformers 5.23 `models/qwen3_vl`, whose defaults are no release's.
"""

from collections.abc import Mapping
from typing import Any

from vla_jax.convert.decoder_settings import decoder_settings
from vla_jax.convert.defaults import check_model_type
from vla_jax.convert.module_rules import decoder_blocks, fused_linear, kernel, linear, norm, scale, table
from vla_jax.convert.rules import Family, Rule
from vla_jax.types import InputError

TEXT_DEFAULTS = {
    "model_type": "qwen3_vl_text",
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-6,
    "rope_theta": 500000.0,
    "attention_bias": False,
}
VISION_DEFAULTS: dict[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "depth": 27,
    "num_heads": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "patch_size": 16,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "out_hidden_size": 3584,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [8, 16, 24],
}
IMAGE_TOKEN, VISION_THETA = 151655, 10_000.0
TABLE = "model.language_model.embed_tokens.weight"
MULTIMODAL = {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [24, 20, 20]}
"""What transformers assumes of the text's rotary positions."""


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """As transformers would read it, in the releases' words."""
    check_model_type(config, "qwen3_vl")
    tied = {"tie_word_embeddings": config.get("tie_word_embeddings", False)}
    text = decoder_settings(config.get("text_config", {}), TEXT_DEFAULTS) | tied
    positions = text["rope_scaling"] or {}
    text["rope_scaling"] = MULTIMODAL | {key: value for key, value in positions.items() if key != "type"}
    return {
        "image_token_id": config.get("image_token_id", IMAGE_TOKEN),
        "text_config": text,
        "vision_config": _vision_settings(config.get("vision_config", {})),
        **tied,
    }


def _vision_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Raises InputError: patches that are not square, or positions other than the releases'."""
    found = VISION_DEFAULTS | dict(config)
    for key in ("patch_size", "temporal_patch_size"):
        if not isinstance(found[key], int):
            raise InputError(f"config.json: vision_config.{key} is {found[key]!r}, expected one integer")
    positions = config.get("rope_parameters") or {}
    is_axial = positions.get("rope_type", "axial") in ("axial", "default")  # transformers reads both alike
    if not is_axial or positions.keys() - {"rope_type", "rope_theta"}:
        raise InputError(
            f"config.json: vision_config.rope_parameters is {positions!r}, expected rope_theta, and rope_type 'axial'; "
            "nothing else is supported"
        )
    return found | {
        "deepstack_visual_indexes": list(found["deepstack_visual_indexes"]),
        "rope_theta": positions.get("rope_theta", VISION_THETA),
    }


def _vision(disk: str, path: str) -> list[Rule]:
    block, blocks, part = f"{disk}.blocks.{{layer}}", f"{path}/vit/stack/blocks", "vision"
    qkv = [f"{blocks}/attention/{name}" for name in ("query", "key", "value")]
    levels, deepstack = f"{disk}.deepstack_merger_list.{{layer}}", f"{path}/deepstack"
    patches = f"{path}/vit/patches"
    return [
        Rule(disk=f"{disk}.patch_embed.proj.weight", paths=(f"{patches}/kernel",), layout="conv3d", part=part),
        table(f"{disk}.patch_embed.proj.bias", f"{patches}/bias", part),
        table(f"{disk}.pos_embed.weight", f"{path}/vit/positions", part),
        *norm(f"{block}.norm1", f"{blocks}/attention_norm", part),
        *fused_linear(f"{block}.attn.qkv", qkv, part),
        *linear(f"{block}.attn.proj", f"{blocks}/attention/out", part),
        *norm(f"{block}.norm2", f"{blocks}/mlp_norm", part),
        *linear(f"{block}.mlp.linear_fc1", f"{blocks}/mlp/up", part),
        *linear(f"{block}.mlp.linear_fc2", f"{blocks}/mlp/down", part),
        *norm(f"{disk}.merger.norm", f"{path}/vit/final_norm", part),
        *linear(f"{disk}.merger.linear_fc1", f"{path}/merger/up", part),
        *linear(f"{disk}.merger.linear_fc2", f"{path}/merger/down", part),
        *norm(f"{levels}.norm", f"{deepstack}/norm", part),
        *linear(f"{levels}.linear_fc1", f"{deepstack}/mlp/up", part),
        *linear(f"{levels}.linear_fc2", f"{deepstack}/mlp/down", part),
    ]


def _language(disk: str, path: str) -> list[Rule]:
    block, blocks, part = f"{disk}.layers.{{layer}}", f"{path}/stack/blocks", "language"
    return [
        table(TABLE, f"{path}/tokens", part),
        *decoder_blocks(block, blocks, part),
        scale(f"{block}.self_attn.q_norm", f"{blocks}/attention/query_norm", part),
        scale(f"{block}.self_attn.k_norm", f"{blocks}/attention/key_norm", part),
        scale(f"{disk}.norm", f"{path}/final_norm", part),
        kernel("lm_head", f"{path}/head", "head"),
    ]


FAMILY = Family(
    rules=(*_vision("model.visual", "vision"), *_language("model.language_model", "language")),
    settings=settings,
    tied={"lm_head.weight": TABLE},
)
