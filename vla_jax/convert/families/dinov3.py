"""DINOv3's vision transformers as Hugging Face releases store them: DINOv3ViTModel.

On disk blocks are `layer.0`, in the memory of transformers 5 `model.layer.0`; either is read. Keys have no bias.
Facts about names and defaults: transformers 5.23 `models/dinov3_vit`.
"""

from collections.abc import Mapping
from typing import Any

from vla_jax.convert.defaults import check_model_type, filled
from vla_jax.convert.module_rules import conv, kernel, linear, norm, table
from vla_jax.convert.rules import Family

BLOCK, BLOCKS = "layer.{layer}", "stack/blocks"

# What transformers assumes where config.json is silent.
DEFAULTS: dict[str, Any] = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "num_register_tokens": 0,
    "hidden_act": "gelu",
    "use_gated_mlp": False,
    "layer_norm_eps": 1e-5,
    "rope_theta": 100.0,
    "image_size": 224,
    "patch_size": 16,
    "query_bias": True,
    "key_bias": False,
    "value_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
}


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    check_model_type(config, "dinov3_vit")
    return filled(config, DEFAULTS)


def canonical_name(name: str, config: Mapping[str, Any]) -> str:
    return name.removeprefix("model.")


FAMILY = Family(
    rules=(
        table("embeddings.cls_token", "class_token", unit_axes=2),
        table("embeddings.mask_token", "mask_token", unit_axes=2),
        table("embeddings.register_tokens", "registers", unit_axes=1),
        *conv("embeddings.patch_embeddings", "patches"),
        *norm(f"{BLOCK}.norm1", f"{BLOCKS}/attention_norm"),
        *linear(f"{BLOCK}.attention.q_proj", f"{BLOCKS}/attention/query"),
        kernel(f"{BLOCK}.attention.k_proj", f"{BLOCKS}/attention/key"),
        *linear(f"{BLOCK}.attention.v_proj", f"{BLOCKS}/attention/value"),
        *linear(f"{BLOCK}.attention.o_proj", f"{BLOCKS}/attention/out"),
        table(f"{BLOCK}.layer_scale1.lambda1", f"{BLOCKS}/attention_scale"),
        *norm(f"{BLOCK}.norm2", f"{BLOCKS}/mlp_norm"),
        *linear(f"{BLOCK}.mlp.gate_proj", f"{BLOCKS}/mlp/gate", "gate"),
        *linear(f"{BLOCK}.mlp.up_proj", f"{BLOCKS}/mlp/up"),
        *linear(f"{BLOCK}.mlp.down_proj", f"{BLOCKS}/mlp/down"),
        table(f"{BLOCK}.layer_scale2.lambda1", f"{BLOCKS}/mlp_scale"),
        *norm("norm", "final_norm"),
    ),
    canonical_name=canonical_name,
    settings=settings,
)
