"""SAM: a picture is encoded once, then points, boxes or a mask ask for masks of objects in it.

Axes: b batch, y x pixels, m masks asked for of a picture.
Source: Kirillov et al. 2023; transformers 5.23 `models/sam` for names and defaults. Pictures have the encoder's size on
their longer side; `vla_jax/segmentation` makes them so, and masks of the original size.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import nnx
from jaxtyping import Array, UInt8

from vla_jax.encoders.sam.image_encoder import SamImageEncoderConfig
from vla_jax.encoders.sam.mask_decoder import Masks, SamMaskDecoderConfig
from vla_jax.encoders.sam.prompt_encoder import FourierFeatures, Prompts, SamPromptEncoder, SamPromptEncoderConfig
from vla_jax.encoders.vit import LearnedPositions, VitConfig
from vla_jax.nn.mlp import ACTIVATION_NAMES, activation_of
from vla_jax.nn.stack import NO_TAPS, Taps
from vla_jax.types import InputError, TokenGrid


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamConfig:
    image_encoder: SamImageEncoderConfig
    prompt_encoder: SamPromptEncoderConfig = SamPromptEncoderConfig()
    mask_decoder: SamMaskDecoderConfig = SamMaskDecoderConfig()

    def __post_init__(self):
        widths = (self.image_encoder.out_width, self.prompt_encoder.width, self.mask_decoder.width)
        if len(set(widths)) > 1:
            raise InputError(f"sam: image embedding, prompts and mask decoder have widths {widths}; one is expected")

    def build(self, rngs: nnx.Rngs) -> "Sam":
        return Sam(self, rngs=rngs)

    def settings(self) -> dict[str, Any]:
        """What `config.json` of a Hugging Face folder with these weights says, in its own words."""
        image, prompt, decoder = self.image_encoder, self.prompt_encoder, self.mask_decoder
        sizes = {"image_size": image.vit.image_size, "patch_size": image.vit.patch_size}
        return {
            "vision_config": FIXED["vision_config"]
            | _theirs(image.vit, VISION_NAMES)
            | sizes
            | {
                "output_channels": image.out_width,
                "window_size": image.window_size,
                "global_attn_indexes": image.global_layers,
                "num_pos_feats": image.out_width // 2,
            },
            "prompt_encoder_config": FIXED["prompt_encoder_config"] | _theirs(prompt, PROMPT_NAMES) | sizes,
            "mask_decoder_config": FIXED["mask_decoder_config"] | _theirs(decoder, DECODER_NAMES),
        }


class Sam(nnx.Module):
    def __init__(self, config: SamConfig, *, rngs: nnx.Rngs):
        vit = config.image_encoder.vit
        self.config = config
        self.image_encoder = config.image_encoder.build(rngs)
        self.features = FourierFeatures(config.image_encoder.out_width, rngs=rngs)
        self.prompt_encoder = SamPromptEncoder(config.prompt_encoder, vit.image_size, vit.grid_size, rngs=rngs)
        self.mask_decoder = config.mask_decoder.build(rngs)

    def encode(self, images: UInt8[Array, "b y x 3"], *, taps: Taps = NO_TAPS) -> TokenGrid:
        return self.image_encoder(images, taps=taps)

    def masks(self, image: TokenGrid, prompts: Prompts, *, multimask: bool = True) -> Masks:
        """Args: multimask: three masks for each one asked for, for prompts of several meanings (a point)."""
        positions = self.features.grid(image.rows)
        return self.mask_decoder(image, positions, self.prompt_encoder(prompts, self.features), multimask=multimask)


def sam_b() -> SamConfig:
    return SamConfig(image_encoder=SamImageEncoderConfig(vit=_vit(768, 12, 12)))


def sam_l() -> SamConfig:
    return SamConfig(image_encoder=SamImageEncoderConfig(vit=_vit(1024, 24, 16)))


def sam_h() -> SamConfig:
    return SamConfig(image_encoder=SamImageEncoderConfig(vit=_vit(1280, 32, 16)))


PRESETS = {"sam_b": sam_b, "sam_l": sam_l, "sam_h": sam_h}


def tiny() -> SamConfig:
    """The CPU twin: ten patches a side in windows of four, so that windows pad."""
    vit = dataclasses.replace(_vit(24, 6, 3), mlp_width=40, patch_size=4, image_size=40)
    return SamConfig(
        image_encoder=SamImageEncoderConfig(vit=vit, num_groups=2, window_size=4, out_width=40),
        prompt_encoder=SamPromptEncoderConfig(width=40, mask_width=12),
        mask_decoder=SamMaskDecoderConfig(width=40, num_heads=2, mlp_width=28, num_masks=3, quality_width=20),
    )


def from_settings(settings: Mapping[str, Any]) -> SamConfig:
    """The model whose `settings()` these are."""
    vision, prompt, decoder = (settings[section] for section in FIXED)
    vit = dataclasses.replace(
        _vit(1, 1, 1), **_ours(vision, VISION_NAMES), patch_size=vision["patch_size"], image_size=vision["image_size"]
    )
    config = SamConfig(
        image_encoder=SamImageEncoderConfig(
            vit=vit,
            num_groups=max(1, len(vision["global_attn_indexes"])),
            window_size=vision["window_size"],
            out_width=vision["output_channels"],
        ),
        prompt_encoder=SamPromptEncoderConfig(**_ours(prompt, PROMPT_NAMES)),
        mask_decoder=SamMaskDecoderConfig(**_ours(decoder, DECODER_NAMES)),
    )
    for section, expected in config.settings().items():
        for key, value in expected.items():
            if settings[section][key] != value:
                raise InputError(
                    f"config.json: {section}.{key} is {settings[section][key]!r}, expected {value!r}: no other is read"
                )
    return config


FIXED: dict[str, dict[str, Any]] = {
    "vision_config": {"num_channels": 3, "qkv_bias": True, "use_abs_pos": True, "use_rel_pos": True},
    "prompt_encoder_config": {"num_point_embeddings": 4},
    "mask_decoder_config": {"iou_head_depth": 3},
}
"""What all releases have, and this model knows no other."""
VISION_NAMES = {
    "hidden_size": "width",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "mlp_dim": "mlp_width",
    "hidden_act": "activation",
    "layer_norm_eps": "epsilon",
}
PROMPT_NAMES = {
    "hidden_size": "width",
    "mask_input_channels": "mask_width",
    "hidden_act": "activation",
    "layer_norm_eps": "epsilon",
}
DECODER_NAMES = {
    "hidden_size": "width",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "mlp_dim": "mlp_width",
    "attention_downsample_rate": "downsampling",
    "num_multimask_outputs": "num_masks",
    "iou_head_hidden_dim": "quality_width",
    "hidden_act": "activation",
    "layer_norm_eps": "epsilon",
}
"""transformers' words -> ours."""


def _vit(width: int, num_layers: int, num_heads: int) -> VitConfig:
    return VitConfig(
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        mlp_width=4 * width,
        patch_size=16,
        image_size=1024,
        positions=LearnedPositions(of_class=False),
        class_token=False,
    )


def _theirs(config: Any, names: Mapping[str, str]) -> dict[str, Any]:
    found = {theirs: getattr(config, ours) for theirs, ours in names.items()}
    return found | {"hidden_act": ACTIVATION_NAMES[config.activation]}


def _ours(settings: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {ours: settings[theirs] for theirs, ours in names.items()} | {"activation": activation_of(settings)}
