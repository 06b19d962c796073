"""The fused DINOv2 + SigLIP pair of Prismatic and OpenVLA: two encoders of the same patches, side by side.

Axes: b batch, y x pixels, n patches, d sum of both widths (1024 + 1152 = 2176).
Source: Karamcheti et al. 2024 (arXiv 2402.07865); Kim et al. 2024 (2406.09246); openvla `modeling_prismatic.py` and
timm 0.9, whose two models it builds: `vit_large_patch14_reg4_dinov2` with learned positions of the patches alone,
resampled to the picture once and for all, and `vit_so400m_patch14_siglip_224`.

A patch's features are what the block before the last one gave, without a final norm. The last block, the norms and
SigLIP's pooling are in the released files: they are kept so that weights go out as they came in, and take no part.
timm's SigLIP computes exact GELU, where big_vision and transformers have its tanh approximation; so does this one,
as OpenVLA was trained with it. DINOv2's mean and deviation are rounded to bfloat16, as in OpenVLA's processor.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, UInt8

from vla_jax.encoders.attention_pooling import AttentionPooling
from vla_jax.encoders.dinov2 import dinov2_large
from vla_jax.encoders.dinov2 import tiny as dinov2_tiny
from vla_jax.encoders.siglip import TOWERS, vision_config
from vla_jax.encoders.vit import LearnedPositions, Vit, VitConfig
from vla_jax.nn.film import Film, modulated, stacked_films
from vla_jax.types import InputError, TokenGrid

ROUNDED_MEAN = (0.484375, 0.455078125, 0.40625)
ROUNDED_STD = (0.228515625, 0.2236328125, 0.224609375)
"""ImageNet's in bfloat16."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrismaticConfig:
    dino: str
    siglip: str
    """timm's names of the two."""
    image_size: int = 224

    @property
    def encoders(self) -> tuple[VitConfig, VitConfig]:
        return DINO[self.dino](self.image_size), SIGLIP[self.siglip](self.image_size)

    @property
    def width(self) -> int:
        return sum(encoder.width for encoder in self.encoders)

    def build(self, rngs: nnx.Rngs) -> "Prismatic":
        return Prismatic(self, rngs=rngs)

    def settings(self) -> dict[str, Any]:
        """What OpenVLA's `config.json` says, in its own words."""
        return FIXED | {"timm_model_ids": [self.dino, self.siglip], "image_sizes": [self.image_size] * 2}


class Prismatic(nnx.Module):
    def __init__(self, config: PrismaticConfig, *, rngs: nnx.Rngs):
        dino, siglip = config.encoders
        self.dino = dino.build(rngs)
        self.siglip = siglip.build(rngs)
        self.siglip_pooling = AttentionPooling(siglip, rngs=rngs)

    def __call__(
        self,
        images: UInt8[Array, "b y x 3"],
        films: "Films | None" = None,
        condition: Float[Array, "b c"] | None = None,
    ) -> TokenGrid:
        """Args: films: of both encoders' blocks, given `condition` (OpenVLA-OFT)."""
        if films is None:
            features = [_before_the_last_block(vit, images) for vit in (self.dino, self.siglip)]
        else:
            assert condition is not None, "FiLM needs a condition"
            pairs = ((self.dino, films.dino), (self.siglip, films.siglip))
            features = [_modulated(vit, images, film, condition) for vit, film in pairs]
        rows, columns = self.dino.grid(images)
        return TokenGrid(tokens=jnp.concatenate(features, axis=-1), rows=rows, columns=columns)


class Films(nnx.Module):
    """FiLM in each block of both encoders but the last, which takes no part. Source: OpenVLA-OFT's published code."""

    def __init__(self, config: PrismaticConfig, condition_width: int, *, rngs: nnx.Rngs):
        dino, siglip = config.encoders
        self.dino = stacked_films(dino.num_layers - 1, condition_width, dino.width, rngs)
        self.siglip = stacked_films(siglip.num_layers - 1, condition_width, siglip.width, rngs)


def _before_the_last_block(vit: Vit, images: UInt8[Array, "b y x 3"]) -> Float[Array, "b n d"]:
    rotation = vit.rotation(*vit.grid(images))
    tokens = vit.stack(vit.embed(images), rotation=rotation, span=(0, vit.config.num_layers - 1))
    return tokens[:, vit.config.prefix_length :]


def _modulated(
    vit: Vit, images: UInt8[Array, "b y x 3"], films: Film, condition: Float[Array, "b c"]
) -> Float[Array, "b n d"]:
    span, rotation = (0, vit.config.num_layers - 1), vit.rotation(*vit.grid(images))
    tokens = modulated(vit.stack, films, vit.embed(images), condition, rotation=rotation, span=span)
    return tokens[:, vit.config.prefix_length :]


FIXED = {"use_fused_vision_backbone": True, "timm_override_act_layers": [None, None]}


def _dino(config: VitConfig, image_size: int) -> VitConfig:
    return dataclasses.replace(
        config,
        image_size=image_size,
        positions=LearnedPositions(of_class=False),
        mask_token=False,
        cropped=bool(image_size % config.patch_size),
        mean=ROUNDED_MEAN,
        std=ROUNDED_STD,
    )


def _siglip(sizes: Mapping[str, int], patch_size: int, image_size: int) -> VitConfig:
    config = vision_config(**sizes, patch_size=patch_size, image_size=image_size)
    return dataclasses.replace(config, activation="gelu", positions=LearnedPositions(of_class=False))


_so400m = functools.partial(_siglip, TOWERS["so400m"], 14)
DINO: dict[str, Callable[[int], VitConfig]] = {
    "vit_large_patch14_reg4_dinov2.lvd142m": functools.partial(_dino, dinov2_large(num_registers=4).vit),
    "tiny_dinov2": functools.partial(_dino, dinov2_tiny(num_registers=3).vit),
}
SIGLIP: dict[str, Callable[[int], VitConfig]] = {
    "vit_so400m_patch14_siglip_224": _so400m,
    "vit_so400m_patch14_siglip_384": _so400m,
    "tiny_siglip": functools.partial(_siglip, {"width": 24, "num_layers": 4, "num_heads": 3, "mlp_width": 44}, 8),
}
"""timm's name -> the encoder of pictures of a size; the tiny ones are the CPU twin's."""


def from_settings(settings: Mapping[str, Any]) -> PrismaticConfig:
    """The model whose `settings()` these are."""
    for key, value in FIXED.items():
        if settings[key] != value:
            raise InputError(
                f"config.json: {key} is {settings[key]!r}, expected {value!r}: of Prismatic's vision backbones, the "
                "fused DINOv2 + SigLIP pair is read"
            )
    names, sides = settings["timm_model_ids"], settings["image_sizes"]
    if len(names) != 2 or names[0] not in DINO or names[1] not in SIGLIP:
        raise InputError(
            f"config.json: timm_model_ids is {names!r}, expected one of {sorted(DINO)} and one of {sorted(SIGLIP)}"
        )
    if len(set(sides)) != 1:
        raise InputError(f"config.json: image_sizes is {sides!r}, expected the same for both")
    return PrismaticConfig(dino=names[0], siglip=names[1], image_size=sides[0])


def dinosiglip_224() -> PrismaticConfig:
    """OpenVLA-7B's."""
    return PrismaticConfig(dino="vit_large_patch14_reg4_dinov2.lvd142m", siglip="vit_so400m_patch14_siglip_224")


def dinosiglip_384() -> PrismaticConfig:
    return PrismaticConfig(
        dino="vit_large_patch14_reg4_dinov2.lvd142m", siglip="vit_so400m_patch14_siglip_384", image_size=384
    )


PRESETS = {"dinosiglip_224": dinosiglip_224, "dinosiglip_384": dinosiglip_384}


def tiny() -> PrismaticConfig:
    """The CPU twin."""
    return PrismaticConfig(dino="tiny_dinov2", siglip="tiny_siglip", image_size=40)
