"""DINOv3's vision transformers: dense patch features, with axial rotary positions and registers.

Source: Simeoni et al. 2025 (arXiv 2508.10104); transformers 5.23 `models/dinov3_vit`.

Any grid of patches will do; class and registers are not turned. The random shift, jitter and rescaling of positions in
transformers' training mode are left out, as in its evaluation mode.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import nnx

from vla_jax.encoders.settings import PICTURE, TRANSFORMER, counts, require
from vla_jax.encoders.vit import AxialPositions, Vit, VitConfig
from vla_jax.nn.stack import Remat

FIXED = {
    "layer_norm_eps": 1e-5,
    "query_bias": True,
    "key_bias": False,
    "value_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
}
"""What all releases from S to H+ say."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dinov3Config:
    width: int
    num_layers: int
    num_heads: int
    mlp_width: int
    gated_mlp: bool = False
    """True: SwiGLU (the releases with a plus)."""
    num_registers: int = 4
    theta: float = 100.0
    image_size: int = 224
    """What the release's processor makes; no parameter depends on it."""
    patch_size: int = 16
    remat: Remat = "full"

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
            epsilon=1e-5,
            attention_biases=("query", "value", "out"),
            layer_scale=1.0,
            positions=AxialPositions(theta=self.theta),
            num_registers=self.num_registers,
            mask_token=True,
            remat=self.remat,
        )

    def build(self, rngs: nnx.Rngs) -> Vit:
        return self.vit.build(rngs)

    def settings(self) -> dict[str, Any]:
        """What `config.json` of a Hugging Face folder with these weights says, in its own words."""
        sizes = {theirs: getattr(self, ours) for theirs, ours in SIZES.items()}
        return FIXED | sizes | _perceptron(self.gated_mlp) | {"rope_theta": self.theta}


SIZES = TRANSFORMER | PICTURE | {"intermediate_size": "mlp_width", "num_register_tokens": "num_registers"}


def _perceptron(gated: bool) -> dict[str, Any]:
    return {"use_gated_mlp": gated, "hidden_act": "silu" if gated else "gelu"}


def from_settings(settings: Mapping[str, Any]) -> Dinov3Config:
    """The model whose `settings()` these are."""
    gated = settings["use_gated_mlp"]
    require(settings, FIXED | _perceptron(gated))
    return Dinov3Config(**counts(settings, SIZES), gated_mlp=gated, theta=settings["rope_theta"])


def dinov3_vits16() -> Dinov3Config:
    return Dinov3Config(width=384, num_layers=12, num_heads=6, mlp_width=1536)


def dinov3_vitb16() -> Dinov3Config:
    return Dinov3Config(width=768, num_layers=12, num_heads=12, mlp_width=3072)


def dinov3_vitl16() -> Dinov3Config:
    return Dinov3Config(width=1024, num_layers=24, num_heads=16, mlp_width=4096)


def dinov3_vith16plus() -> Dinov3Config:
    return Dinov3Config(width=1280, num_layers=32, num_heads=20, mlp_width=5120, gated_mlp=True)


PRESETS = {
    "dinov3_vits16": dinov3_vits16,
    "dinov3_vitb16": dinov3_vitb16,
    "dinov3_vitl16": dinov3_vitl16,
    "dinov3_vith16plus": dinov3_vith16plus,
}


def tiny(*, gated_mlp: bool = False) -> Dinov3Config:
    """The CPU twin; its sizes differ from one another so that a mixed-up axis cannot pass."""
    return Dinov3Config(
        width=24,
        num_layers=3,
        num_heads=2,
        mlp_width=44,
        gated_mlp=gated_mlp,
        num_registers=3,
        theta=50.0,
        image_size=32,
        patch_size=8,
    )
