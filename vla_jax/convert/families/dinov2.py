"""DINOv2 as Hugging Face releases store it: Dinov2Model and Dinov2WithRegistersModel.

The files have the names of transformers 4: in memory, transformers 5 calls the attention's layers otherwise and splits
`mlp.weights_in` (`conversion_mapping.py`). Facts about names and defaults: transformers 5.23.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vla_jax.convert.defaults import check_model_type, filled
from vla_jax.convert.module_rules import conv, fused_linear, linear, norm, table
from vla_jax.convert.rules import Family, Rule

BLOCK, BLOCKS = "encoder.layer.{layer}", "stack/blocks"
GATE = f"{BLOCKS}/mlp/gate/kernel"

# What transformers assumes where config.json is silent.
DEFAULTS: dict[str, Any] = {
    "model_type": "dinov2",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "image_size": 224,
    "patch_size": 14,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
}
OF_KIND: dict[str, dict[str, Any]] = {
    "dinov2": {"use_mask_token": True},
    "dinov2_with_registers": {"num_register_tokens": 4, "patch_size": 16},
}


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    check_model_type(config, *OF_KIND)
    return filled(config, DEFAULTS | OF_KIND[config.get("model_type", "dinov2")])


def _perceptron() -> list[Rule]:
    """Of two layers, or of three (giant), whose first two are one tensor."""
    two = linear(f"{BLOCK}.mlp.fc1", f"{BLOCKS}/mlp/up") + linear(f"{BLOCK}.mlp.fc2", f"{BLOCKS}/mlp/down")
    three = fused_linear(f"{BLOCK}.mlp.weights_in", [f"{BLOCKS}/mlp/gate", f"{BLOCKS}/mlp/up"])
    three += linear(f"{BLOCK}.mlp.weights_out", f"{BLOCKS}/mlp/down")
    return [
        *(dataclasses.replace(rule, holds=lambda shapes: GATE not in shapes) for rule in two),
        *(dataclasses.replace(rule, holds=lambda shapes: GATE in shapes) for rule in three),
    ]


FAMILY = Family(
    rules=(
        table("embeddings.cls_token", "class_token", unit_axes=2),
        table("embeddings.mask_token", "mask_token", "mask", unit_axes=1),
        table("embeddings.register_tokens", "registers", "registers", unit_axes=1),
        table("embeddings.position_embeddings", "positions", unit_axes=1),
        *conv("embeddings.patch_embeddings.projection", "patches"),
        *norm(f"{BLOCK}.norm1", f"{BLOCKS}/attention_norm"),
        *linear(f"{BLOCK}.attention.attention.query", f"{BLOCKS}/attention/query"),
        *linear(f"{BLOCK}.attention.attention.key", f"{BLOCKS}/attention/key"),
        *linear(f"{BLOCK}.attention.attention.value", f"{BLOCKS}/attention/value"),
        *linear(f"{BLOCK}.attention.output.dense", f"{BLOCKS}/attention/out"),
        table(f"{BLOCK}.layer_scale1.lambda1", f"{BLOCKS}/attention_scale"),
        *norm(f"{BLOCK}.norm2", f"{BLOCKS}/mlp_norm"),
        *_perceptron(),
        table(f"{BLOCK}.layer_scale2.lambda1", f"{BLOCKS}/mlp_scale"),
        *norm("layernorm", "final_norm"),
    ),
    settings=settings,
)
