"""CLIP as Hugging Face releases store it: CLIPModel, and its halves alone with or without their projection.

A half saved alone may lack the `vision_model.` or `text_model.` prefix; `model_type` in config.json says which
half it is. Facts about names and defaults: transformers 5.23 `models/clip`, and the OpenAI releases.
"""

from collections.abc import Mapping
from typing import Any

from vla_jax.convert.defaults import check_model_type
from vla_jax.convert.module_rules import blocks, norm
from vla_jax.convert.rules import Family, Layout, Rule

HALVES = {  # model_type of a half alone -> its prefix, its projection, its section of config.json
    "clip_vision_model": ("vision_model.", "visual_projection.", "vision_config"),
    "clip_text_model": ("text_model.", "text_projection.", "text_config"),
}

# What transformers assumes where config.json is silent.
DEFAULTS: dict[str, dict[str, Any]] = {
    "vision_config": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "image_size": 224,
        "patch_size": 32,
    },
    "text_config": {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "vocab_size": 49408,
        "max_position_embeddings": 77,
    },
}
PROJECTION_WIDTH = 512


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """`{section: settings, "projection_dim": width}`, as transformers would read it."""
    check_model_type(config, "clip", *HALVES)
    if half := HALVES.get(config.get("model_type", "")):
        section = half[2]
        found = {section: DEFAULTS[section] | dict(config)}
    else:
        found = {}
        for section, defaults in DEFAULTS.items():
            found[section] = defaults | config.get(section, {})
            if override := config.get(f"{section}_dict"):  # early releases; it wins over the section
                found[section] |= defaults | override
    return found | {"projection_dim": config.get("projection_dim", PROJECTION_WIDTH)}


def canonical_name(name: str, config: Mapping[str, Any]) -> str:
    prefix, projection, _ = HALVES.get(config.get("model_type", ""), ("", "", ""))
    return name if name.startswith((prefix, projection)) else prefix + name


def _table(disk: str, path: str, part: str, layout: Layout = "copy") -> Rule:
    return Rule(disk=disk, paths=(path,), layout=layout, part=part)


VISION = (
    _table("vision_model.embeddings.class_embedding", "vision/class_token", "vision"),
    _table("vision_model.embeddings.patch_embedding.weight", "vision/patches/kernel", "vision", "conv"),
    _table("vision_model.embeddings.position_embedding.weight", "vision/positions", "vision"),
    *norm("vision_model.pre_layrnorm", "vision/pre_norm", "vision"),  # so spelt on disk
    *blocks("vision_model.encoder.layers.{layer}", "vision/stack/blocks", "vision"),
    *norm("vision_model.post_layernorm", "vision/final_norm", "vision"),
    _table("visual_projection.weight", "vision_projection/kernel", "vision", "transpose"),
)

TEXT = (
    _table("text_model.embeddings.token_embedding.weight", "text/tokens", "text"),
    _table("text_model.embeddings.position_embedding.weight", "text/positions", "text"),
    *blocks("text_model.encoder.layers.{layer}", "text/stack/blocks", "text"),
    *norm("text_model.final_layer_norm", "text/final_norm", "text"),
    _table("text_projection.weight", "text_projection/kernel", "text", "transpose"),
)

FAMILY = Family(
    rules=(*VISION, *TEXT, _table("logit_scale", "logit_scale", "both")),
    ignored=(r"(vision_model|text_model)\.embeddings\.position_ids",),
    canonical_name=canonical_name,
    settings=settings,
)
