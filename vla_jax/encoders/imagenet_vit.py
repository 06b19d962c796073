"""ViT as Google released it: supervised on ImageNet-21k, with a pooler, or with a classifier of 1000 classes.

Source: Dosovitskiy et al. 2020 (arXiv 2010.11929); transformers 5.23 `models/vit`. Its core is `vit.py`, which every
picture encoder configures. Pictures of other sizes have their positions resampled as transformers does it when it is
asked to (`interpolate_pos_encoding=True`); it refuses them otherwise.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, UInt8

from vla_jax.encoders.settings import PICTURE, TRANSFORMER, counts, require
from vla_jax.encoders.vit import LearnedPositions, Vit, VitConfig
from vla_jax.nn.linear import linear
from vla_jax.nn.stack import Remat

FIXED = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "qkv_bias": True}
"""What all releases say."""
POOLER = {"pooler_act": "tanh"}
"""And those with a pooler."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagenetVitConfig:
    width: int
    num_layers: int
    num_heads: int
    mlp_width: int
    image_size: int = 224
    patch_size: int = 16
    pooled_width: int | None = None
    """None: there is no pooler."""
    num_classes: int | None = None
    """None: there is no classifier."""
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
            epsilon=1e-12,
            positions=LearnedPositions(interpolation="bicubic"),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            remat=self.remat,
        )

    def build(self, rngs: nnx.Rngs) -> "ImagenetVit":
        return ImagenetVit(self, rngs=rngs)

    def settings(self) -> dict[str, Any]:
        """What `config.json` of a Hugging Face folder with these weights says, in its own words."""
        settings: dict[str, Any] = FIXED | {theirs: getattr(self, ours) for theirs, ours in SIZES.items()}
        if self.pooled_width is not None:
            settings |= {"pooler_output_size": self.pooled_width, **POOLER}
        return settings if self.num_classes is None else settings | {"num_labels": self.num_classes}


class ImagenetVit(Vit):
    def __init__(self, config: ImagenetVitConfig, *, rngs: nnx.Rngs):
        super().__init__(config.vit, rngs=rngs)

        def head(out_width: int | None) -> nnx.Linear | None:
            return None if out_width is None else linear(config.width, out_width, ("embed", "feature"), rngs=rngs)

        self.pooler = head(config.pooled_width)
        self.classifier = head(config.num_classes)

    def pooled(self, images: UInt8[Array, "b y x 3"]) -> Float[Array, "b e"]:
        assert self.pooler is not None, "this model has no pooler"
        return jnp.tanh(self.pooler(self._class(images)))

    def logits(self, images: UInt8[Array, "b y x 3"]) -> Float[Array, "b c"]:
        assert self.classifier is not None, "this model has no classifier"
        return self.classifier(self._class(images))

    def _class(self, images: UInt8[Array, "b y x 3"]) -> Float[Array, "b d"]:
        prefix = self(images).prefix
        assert prefix is not None, "ViT has a class token"
        return prefix[:, 0]


SIZES = TRANSFORMER | PICTURE | {"intermediate_size": "mlp_width"}
HEADS = {"pooler_output_size": "pooled_width", "num_labels": "num_classes"}


def from_settings(settings: Mapping[str, Any]) -> ImagenetVitConfig:
    """The model whose `settings()` these are."""
    require(settings, FIXED)
    heads = {theirs: ours for theirs, ours in HEADS.items() if theirs in settings}
    if "pooler_output_size" in heads:
        require(settings, POOLER)
    return ImagenetVitConfig(**counts(settings, SIZES | heads))


def vit_b16() -> ImagenetVitConfig:
    """google/vit-base-patch16-224: fine-tuned on the 1000 classes."""
    return ImagenetVitConfig(width=768, num_layers=12, num_heads=12, mlp_width=3072, num_classes=1000)


def vit_b16_in21k() -> ImagenetVitConfig:
    """google/vit-base-patch16-224-in21k."""
    return ImagenetVitConfig(width=768, num_layers=12, num_heads=12, mlp_width=3072, pooled_width=768)


PRESETS = {"vit_b16": vit_b16, "vit_b16_in21k": vit_b16_in21k}


def tiny(*, pooled_width: int | None = None, num_classes: int | None = None) -> ImagenetVitConfig:
    """The CPU twin; its sizes differ from one another so that a mixed-up axis cannot pass."""
    return ImagenetVitConfig(
        width=20,
        num_layers=3,
        num_heads=2,
        mlp_width=36,
        image_size=40,
        patch_size=8,
        pooled_width=pooled_width,
        num_classes=num_classes,
    )
