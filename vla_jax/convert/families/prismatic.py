"""The vision backbone of OpenVLA's files: two models of timm, `featurizer` (DINOv2) and `fused_featurizer` (SigLIP).

timm keeps queries, keys and values in one tensor, in this order. LayerScale is `scale_factor`: transformers 4 renamed
parameters called gamma, so that OpenVLA calls it otherwise. Facts: openvla `modeling_prismatic.py`,
`configuration_prismatic.py`; timm 0.9 `vision_transformer.py`, `attention_pool.py`.
"""

from collections.abc import Mapping
from typing import Any

from vla_jax.convert.defaults import check_model_type
from vla_jax.convert.module_rules import conv, fused_linear, linear, norm, table
from vla_jax.convert.rules import Family, Rule
from vla_jax.types import InputError

# What `configuration_prismatic.py` derives from `vision_backbone_id`, where a file does not say it itself.
BACKBONES: dict[str, dict[str, Any]] = {
    f"dinosiglip-vit-so-{side}px": {
        "use_fused_vision_backbone": True,
        "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", f"vit_so400m_patch14_siglip_{side}"],
        "timm_override_act_layers": [None, None],
        "image_sizes": [side, side],
    }
    for side in (224, 384)
}
KEYS = ("use_fused_vision_backbone", "timm_model_ids", "timm_override_act_layers", "image_sizes")


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    check_model_type(config, "openvla", "prismatic")
    found = BACKBONES.get(config.get("vision_backbone_id", ""), {}) | {
        key: config[key] for key in KEYS if key in config
    }
    if lacking := [key for key in KEYS if key not in found]:
        raise InputError(
            f"config.json: has no {lacking[0]}, and vision_backbone_id is {config.get('vision_backbone_id')!r}, "
            f"expected one of {sorted(BACKBONES)}"
        )
    return found


def _transformer(disk: str, path: str) -> list[Rule]:
    """timm's VisionTransformer."""
    block, stacked = f"{disk}.blocks.{{layer}}", f"{path}/stack/blocks"
    into = [f"{stacked}/attention/{name}" for name in ("query", "key", "value")]
    return [
        table(f"{disk}.pos_embed", f"{path}/positions", unit_axes=1),
        *conv(f"{disk}.patch_embed.proj", f"{path}/patches"),
        *norm(f"{block}.norm1", f"{stacked}/attention_norm"),
        *fused_linear(f"{block}.attn.qkv", into),
        *linear(f"{block}.attn.proj", f"{stacked}/attention/out"),
        *norm(f"{block}.norm2", f"{stacked}/mlp_norm"),
        *linear(f"{block}.mlp.fc1", f"{stacked}/mlp/up"),
        *linear(f"{block}.mlp.fc2", f"{stacked}/mlp/down"),
        *norm(f"{disk}.norm", f"{path}/final_norm"),
    ]


def _pooling(disk: str, path: str) -> list[Rule]:
    return [
        table(f"{disk}.latent", f"{path}/query", unit_axes=1),
        *linear(f"{disk}.q", f"{path}/attention/query"),
        *fused_linear(f"{disk}.kv", [f"{path}/attention/key", f"{path}/attention/value"]),
        *linear(f"{disk}.proj", f"{path}/attention/out"),
        *norm(f"{disk}.norm", f"{path}/norm"),
        *linear(f"{disk}.mlp.fc1", f"{path}/mlp/up"),
        *linear(f"{disk}.mlp.fc2", f"{path}/mlp/down"),
    ]


DINO, SIGLIP = "vision_backbone.featurizer", "vision_backbone.fused_featurizer"

FAMILY = Family(
    rules=(
        table(f"{DINO}.cls_token", "dino/class_token", unit_axes=2),
        table(f"{DINO}.reg_token", "dino/registers", unit_axes=1),
        *_transformer(DINO, "dino"),
        table(f"{DINO}.blocks.{{layer}}.ls1.scale_factor", "dino/stack/blocks/attention_scale"),
        table(f"{DINO}.blocks.{{layer}}.ls2.scale_factor", "dino/stack/blocks/mlp_scale"),
        *_transformer(SIGLIP, "siglip"),
        *_pooling(f"{SIGLIP}.attn_pool", "siglip_pooling"),
    ),
    ignored=(r"(projector|language_model)\..+",),  # the rest of OpenVLA, which has tables of its own
    settings=settings,
)
