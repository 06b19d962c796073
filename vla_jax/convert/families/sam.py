"""SAM as Hugging Face releases store it: SamModel. Facts about names and defaults: transformers 5.23 `models/sam`.

Window and global blocks lie in one list on disk; here they are two stacks. The prompt encoder's frequencies are the
model's own, and absent.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from vla_jax.convert.defaults import check_model_type
from vla_jax.convert.module_rules import PROJECTIONS, conv, fused_linear, linear, norm, table
from vla_jax.convert.rules import Family, Rule

DEFAULTS: dict[str, dict[str, Any]] = {
    "vision_config": {
        "hidden_size": 768,
        "output_channels": 256,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_channels": 3,
        "image_size": 1024,
        "patch_size": 16,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "use_abs_pos": True,
        "use_rel_pos": True,
        "window_size": 14,
        "global_attn_indexes": [2, 5, 8, 11],
        "num_pos_feats": 128,
        "mlp_ratio": 4.0,
        "mlp_dim": None,
    },
    "prompt_encoder_config": {
        "hidden_size": 256,
        "image_size": 1024,
        "patch_size": 16,
        "mask_input_channels": 16,
        "num_point_embeddings": 4,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
    },
    "mask_decoder_config": {
        "hidden_size": 256,
        "hidden_act": "relu",
        "mlp_dim": 2048,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "attention_downsample_rate": 2,
        "num_multimask_outputs": 3,
        "iou_head_depth": 3,
        "iou_head_hidden_dim": 256,
        "layer_norm_eps": 1e-6,
    },
}
"""What transformers assumes where config.json is silent."""


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    check_model_type(config, "sam")
    found = {section: defaults | (config.get(section) or {}) for section, defaults in DEFAULTS.items()}
    vision = found["vision_config"]
    if vision["mlp_dim"] is None:
        vision["mlp_dim"] = int(vision["hidden_size"] * vision["mlp_ratio"])
    return found


WINDOWS, GLOBALS = "image_encoder/window_blocks", "image_encoder/global_blocks"


def _places(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> tuple[list[int], list[int]]:
    """The layers on disk of the window blocks, and of the global ones, the last of each group."""
    windows, groups = (shapes[f"{stack}/row_positions"].shape[0] for stack in (WINDOWS, GLOBALS))
    layers = range(windows + groups)
    last = list(layers[(windows + groups) // groups - 1 :: (windows + groups) // groups])
    return [layer for layer in layers if layer not in last], last


def _window_layers(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> Sequence[int]:
    return _places(shapes)[0]


def _global_layers(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> Sequence[int]:
    return _places(shapes)[1]


def _blocks(path: str) -> list[Rule]:
    disk, block = "vision_encoder.layers.{layer}", f"{path}/block"
    rules = [
        *norm(f"{disk}.layer_norm1", f"{block}/attention_norm"),
        *fused_linear(f"{disk}.attn.qkv", [f"{block}/attention/{name}" for name in ("query", "key", "value")]),
        *linear(f"{disk}.attn.proj", f"{block}/attention/out"),
        table(f"{disk}.attn.rel_pos_h", f"{path}/row_positions"),
        table(f"{disk}.attn.rel_pos_w", f"{path}/column_positions"),
        *norm(f"{disk}.layer_norm2", f"{block}/mlp_norm"),
        *linear(f"{disk}.mlp.lin1", f"{block}/mlp/up"),
        *linear(f"{disk}.mlp.lin2", f"{block}/mlp/down"),
    ]
    layers = _window_layers if path == WINDOWS else _global_layers
    return [dataclasses.replace(rule, layers=layers) for rule in rules]


def _convolution(disk: str, path: str) -> Rule:
    """Without a bias."""
    return conv(disk, path)[0]


def _attention(disk: str, path: str) -> list[Rule]:
    return [rule for a, b in PROJECTIONS.items() for rule in linear(f"{disk}.{a}", f"{path}/{b}")]


def _three_layers(disk: str, path: str) -> list[Rule]:
    names = {"proj_in": "first", "layers.0": "middle", "proj_out": "last"}
    return [rule for a, b in names.items() for rule in linear(f"{disk}.{a}", f"{path}/{b}")]


def _enlargement(disk: str, path: str) -> list[Rule]:
    weight, bias = conv(disk, path)
    return [dataclasses.replace(weight, layout="conv_transpose"), bias]


IMAGE = (
    *conv("vision_encoder.patch_embed.projection", "image_encoder/patches"),
    table("vision_encoder.pos_embed", "image_encoder/positions", unit_axes=1),
    *_blocks(WINDOWS),
    *_blocks(GLOBALS),
    _convolution("vision_encoder.neck.conv1", "image_encoder/neck_in"),
    *norm("vision_encoder.neck.layer_norm1", "image_encoder/neck_in_norm"),
    _convolution("vision_encoder.neck.conv2", "image_encoder/neck_out"),
    *norm("vision_encoder.neck.layer_norm2", "image_encoder/neck_out_norm"),
    table("shared_image_embedding.positional_embedding", "features/frequencies"),
)

PROMPT = (
    table("prompt_encoder.point_embed.{layer}.weight", "prompt_encoder/point_kinds", unit_axes=1),
    table("prompt_encoder.not_a_point_embed.weight", "prompt_encoder/not_a_point", unit_axes=1),
    table("prompt_encoder.no_mask_embed.weight", "prompt_encoder/no_mask", unit_axes=1),
    *conv("prompt_encoder.mask_embed.conv1", "prompt_encoder/mask_in"),
    *norm("prompt_encoder.mask_embed.layer_norm1", "prompt_encoder/mask_in_norm"),
    *conv("prompt_encoder.mask_embed.conv2", "prompt_encoder/mask_middle"),
    *norm("prompt_encoder.mask_embed.layer_norm2", "prompt_encoder/mask_middle_norm"),
    *conv("prompt_encoder.mask_embed.conv3", "prompt_encoder/mask_out"),
)

BLOCK = "mask_decoder.transformer.layers.{layer}"
DECODER = (
    table("mask_decoder.iou_token.weight", "mask_decoder/quality_token", unit_axes=1),
    table("mask_decoder.mask_tokens.weight", "mask_decoder/mask_tokens"),
    *_attention(f"{BLOCK}.self_attn", "mask_decoder/blocks/self_attention"),
    *norm(f"{BLOCK}.layer_norm1", "mask_decoder/blocks/self_norm"),
    *_attention(f"{BLOCK}.cross_attn_token_to_image", "mask_decoder/blocks/token_attention"),
    *norm(f"{BLOCK}.layer_norm2", "mask_decoder/blocks/token_norm"),
    *linear(f"{BLOCK}.mlp.lin1", "mask_decoder/blocks/mlp/up"),
    *linear(f"{BLOCK}.mlp.lin2", "mask_decoder/blocks/mlp/down"),
    *norm(f"{BLOCK}.layer_norm3", "mask_decoder/blocks/mlp_norm"),
    *norm(f"{BLOCK}.layer_norm4", "mask_decoder/blocks/image_norm"),
    *_attention(f"{BLOCK}.cross_attn_image_to_token", "mask_decoder/blocks/image_attention"),
    *_attention("mask_decoder.transformer.final_attn_token_to_image", "mask_decoder/final_attention"),
    *norm("mask_decoder.transformer.layer_norm_final_attn", "mask_decoder/final_norm"),
    *_enlargement("mask_decoder.upscale_conv1", "mask_decoder/enlarge_in"),
    *norm("mask_decoder.upscale_layer_norm", "mask_decoder/enlarge_norm"),
    *_enlargement("mask_decoder.upscale_conv2", "mask_decoder/enlarge_out"),
    *_three_layers("mask_decoder.output_hypernetworks_mlps.{layer}", "mask_decoder/hypernetworks"),
    *_three_layers("mask_decoder.iou_prediction_head", "mask_decoder/quality_head"),
)

FAMILY = Family(
    rules=(*IMAGE, *PROMPT, *DECODER),
    settings=settings,
    tied={"prompt_encoder.shared_embedding.positional_embedding": "shared_image_embedding.positional_embedding"},
)
