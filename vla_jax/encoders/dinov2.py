"""DINOv2, with and without registers: class token and dense patch features of self-supervised pretraining.

Source: Oquab et al. 2023 (arXiv 2304.07193); Darcet et al. 2023 (2309.16588) for registers; transformers 5.23
`models/dinov2` and `models/dinov2_with_registers`.

Positions of pictures of other sizes than 518 x 518 are resampled, without antialias where there are no registers and
with it where there are: each as its release was evaluated. Sides that are no multiples of the patch are refused, where
transformers leaves out the rest.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from flax import nnx

from vla_jax.encoders.settings import PICTURE, TRANSFORMER, counts, require
from vla_jax.encoders.vit import LearnedPositions, Vit, VitConfig
from vla_jax.nn.stack import Remat
from vla_jax.types import InputError

FIXED = {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "qkv_bias": True}
"""What all releases say."""
KINDS = {"dinov2": False, "dinov2_with_registers": True}
"""model_type -> whether there are registers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dinov2Config:
    width: int
    num_layers: int
    num_heads: int
    mlp_ratio: int = 4
    gated_mlp: bool = False
    """True: SwiGLU of two thirds of the width that `mlp_ratio` says, rounded up to a multiple of 8 (giant)."""
    num_registers: int = 0
    mask_token: bool = True
    image_size: int = 518
    """Pixels of a side of the pictures that the learned positions belong to."""
    patch_size: int = 14
    remat: Remat = "full"

    @property
    def mlp_width(self) -> int:
        hidden = self.width * self.mlp_ratio
        return (hidden * 2 // 3 + 7) // 8 * 8 if self.gated_mlp else hidden

    @property
    def vit(self) -> VitConfig:
        return VitConfig(
            width=self.width,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            mlp_width=self.mlp_width,
            patch_size=self.patch_size,
            image_size=self.image_size,
            activation="silu" if self.gated_mlp else "gelu",
            gated_mlp=self.gated_mlp,
            epsilon=1e-6,
            layer_scale=1.0,
            positions=LearnedPositions(interpolation="bicubic_antialias" if self.num_registers else "bicubic"),
            num_registers=self.num_registers,
            mask_token=self.mask_token,
            remat=self.remat,
        )

    def build(self, rngs: nnx.Rngs) -> Vit:
        return self.vit.build(rngs)

    def settings(self) -> dict[str, Any]:
        """What `config.json` of a Hugging Face folder with these weights says, in its own words."""
        kind = (
            {"model_type": "dinov2_with_registers", "num_register_tokens": self.num_registers}
            if self.num_registers
            else {"model_type": "dinov2", "use_mask_token": self.mask_token}
        )
        sizes = {theirs: getattr(self, ours) for theirs, ours in SIZES.items()}
        return kind | FIXED | sizes | {"use_swiglu_ffn": self.gated_mlp}


SIZES = TRANSFORMER | PICTURE | {"mlp_ratio": "mlp_ratio"}


def from_settings(settings: Mapping[str, Any]) -> Dinov2Config:
    """The model whose `settings()` these are."""
    kind = settings["model_type"]
    if kind not in KINDS:
        raise InputError(f"config.json: model_type is {kind!r}, expected one of {sorted(KINDS)}")
    require(settings, FIXED)
    registers = counts(settings, {"num_register_tokens": "num_registers"}) if KINDS[kind] else {}
    return Dinov2Config(
        **counts(settings, SIZES),
        **registers,
        gated_mlp=settings["use_swiglu_ffn"],
        mask_token=True if KINDS[kind] else settings["use_mask_token"],
    )


def dinov2_small(*, num_registers: int = 0) -> Dinov2Config:
    return Dinov2Config(width=384, num_layers=12, num_heads=6, num_registers=num_registers)


def dinov2_base(*, num_registers: int = 0) -> Dinov2Config:
    return Dinov2Config(width=768, num_layers=12, num_heads=12, num_registers=num_registers)


def dinov2_large(*, num_registers: int = 0) -> Dinov2Config:
    return Dinov2Config(width=1024, num_layers=24, num_heads=16, num_registers=num_registers)


def dinov2_giant(*, num_registers: int = 0) -> Dinov2Config:
    return Dinov2Config(width=1536, num_layers=40, num_heads=24, gated_mlp=True, num_registers=num_registers)


_SIZES = {"small": dinov2_small, "base": dinov2_base, "large": dinov2_large, "giant": dinov2_giant}
PRESETS = {f"dinov2_{size}": build for size, build in _SIZES.items()} | {
    f"dinov2_with_registers_{size}": functools.partial(build, num_registers=4) for size, build in _SIZES.items()
}


def tiny(*, num_registers: int = 0, gated_mlp: bool = False) -> Dinov2Config:
    """The CPU twin; its sizes differ from one another so that a mixed-up axis cannot pass."""
    return Dinov2Config(
        width=20,
        num_layers=3,
        num_heads=2,
        mlp_ratio=3,
        gated_mlp=gated_mlp,
        num_registers=num_registers,
        image_size=40,
        patch_size=8,
    )
