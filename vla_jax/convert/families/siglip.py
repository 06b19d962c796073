"""SigLIP as Hugging Face releases store it: SiglipModel, and its halves alone, with or without their prefix.

SigLIP2 at fixed resolution is stored likewise. Facts about names and defaults: transformers 5.23 `models/siglip`.
"""

from collections.abc import Mapping
from typing import Any

from vla_jax.convert.defaults import check_model_type, filled
from vla_jax.convert.module_rules import blocks, conv, fused_linear, linear, norm, table
from vla_jax.convert.rules import Family, Rule

HALVES = {  # model_type of a half alone -> its prefix, its section of config.json
    "siglip_vision_model": ("vision_model.", "vision_config"),
    "siglip_text_model": ("text_model.", "text_config"),
}

# What transformers assumes where config.json is silent.
BOTH: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "vision_config": BOTH | {"image_size": 224, "patch_size": 16, "vision_use_head": True},
    "text_config": BOTH | {"vocab_size": 32000, "max_position_embeddings": 64, "projection_size": None},
}


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """`{section: settings}`, as transformers would read it."""
    check_model_type(config, "siglip", *HALVES)
    if half := HALVES.get(config.get("model_type", "")):
        found = {half[1]: filled(config, DEFAULTS[half[1]])}
    else:
        found = {section: filled(config.get(section) or {}, defaults) for section, defaults in DEFAULTS.items()}
    if text := found.get("text_config"):
        text["projection_size"] = text["projection_size"] or text["hidden_size"]
    return found


def canonical_name(name: str, config: Mapping[str, Any]) -> str:
    prefix, _ = HALVES.get(config.get("model_type", ""), ("", ""))
    return name if name.startswith(prefix) else prefix + name


def _pooling(disk: str, path: str, part: str) -> list[Rule]:
    """torch's MultiheadAttention has the three input projections in one tensor, without a dot in its name."""
    into = [f"{path}/attention/{name}" for name in ("query", "key", "value")]
    weight, bias = fused_linear(f"{disk}.attention.in_proj", into, part)
    return [
        table(f"{disk}.probe", f"{path}/query", part, unit_axes=1),
        Rule(disk=f"{disk}.attention.in_proj_weight", paths=weight.paths, layout=weight.layout, part=part),
        Rule(disk=f"{disk}.attention.in_proj_bias", paths=bias.paths, part=part),
        *linear(f"{disk}.attention.out_proj", f"{path}/attention/out", part),
        *norm(f"{disk}.layernorm", f"{path}/norm", part),
        *linear(f"{disk}.mlp.fc1", f"{path}/mlp/up", part),
        *linear(f"{disk}.mlp.fc2", f"{path}/mlp/down", part),
    ]


FAMILY = Family(
    rules=(
        *conv("vision_model.embeddings.patch_embedding", "vision/patches", "vision"),
        table("vision_model.embeddings.position_embedding.weight", "vision/positions", "vision"),
        *blocks("vision_model.encoder.layers.{layer}", "vision/stack/blocks", "vision"),
        *norm("vision_model.post_layernorm", "vision/final_norm", "vision"),
        *_pooling("vision_model.head", "pooling", "pooling"),
        table("text_model.embeddings.token_embedding.weight", "text/tokens", "text"),
        table("text_model.embeddings.position_embedding.weight", "text/positions", "text"),
        *blocks("text_model.encoder.layers.{layer}", "text/stack/blocks", "text"),
        *norm("text_model.final_layer_norm", "text/final_norm", "text"),
        *linear("text_model.head", "text_head", "text"),
        table("logit_scale", "logit_scale", "both", unit_axes=1),
        table("logit_bias", "logit_bias", "both", unit_axes=1),
    ),
    ignored=(r"(vision_model|text_model)\.embeddings\.position_ids",),
    canonical_name=canonical_name,
    settings=settings,
)
