"""ViT as Hugging Face releases store it: ViTModel, and ViTForImageClassification with the prefix `vit.`.

Which of the two it is, `architectures` in config.json says: the first has a pooler, the second a classifier. Exported
names have no prefix; transformers reads them into either class. The files have the names of transformers 4
(`conversion_mapping.py`). Facts about names and defaults: transformers 5.23 `models/vit`.
"""

from collections.abc import Mapping
from typing import Any

from vla_jax.convert.defaults import check_model_type, filled
from vla_jax.convert.module_rules import conv, linear, norm, table
from vla_jax.convert.rules import Family

BLOCK, BLOCKS = "encoder.layer.{layer}", "stack/blocks"

# What transformers assumes where config.json is silent.
DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "qkv_bias": True,
}


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """With `pooler_output_size` or `num_labels`, where the class that was saved has such a head."""
    check_model_type(config, "vit")
    found = filled(config, DEFAULTS)
    architectures = config.get("architectures") or []
    if "ViTModel" in architectures:
        found["pooler_output_size"] = config.get("pooler_output_size") or found["hidden_size"]
        found["pooler_act"] = config.get("pooler_act", "tanh")
    if "ViTForImageClassification" in architectures:
        found["num_labels"] = len(config["id2label"]) if "id2label" in config else config.get("num_labels", 2)
    return found


def canonical_name(name: str, config: Mapping[str, Any]) -> str:
    return name.removeprefix("vit.")


FAMILY = Family(
    rules=(
        table("embeddings.cls_token", "class_token", unit_axes=2),
        table("embeddings.position_embeddings", "positions", unit_axes=1),
        *conv("embeddings.patch_embeddings.projection", "patches"),
        *norm(f"{BLOCK}.layernorm_before", f"{BLOCKS}/attention_norm"),
        *linear(f"{BLOCK}.attention.attention.query", f"{BLOCKS}/attention/query"),
        *linear(f"{BLOCK}.attention.attention.key", f"{BLOCKS}/attention/key"),
        *linear(f"{BLOCK}.attention.attention.value", f"{BLOCKS}/attention/value"),
        *linear(f"{BLOCK}.attention.output.dense", f"{BLOCKS}/attention/out"),
        *norm(f"{BLOCK}.layernorm_after", f"{BLOCKS}/mlp_norm"),
        *linear(f"{BLOCK}.intermediate.dense", f"{BLOCKS}/mlp/up"),
        *linear(f"{BLOCK}.output.dense", f"{BLOCKS}/mlp/down"),
        *norm("layernorm", "final_norm"),
        *linear("pooler.dense", "pooler", "pooler"),
        *linear("classifier", "classifier", "classifier"),
    ),
    canonical_name=canonical_name,
    settings=settings,
)
