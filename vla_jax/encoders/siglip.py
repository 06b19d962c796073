"""SigLIP, and SigLIP2 at fixed resolution: a vision and a text transformer that share an embedding space.

Axes: b pictures or texts, y x pixels, n patches, t text tokens, d width, e shared width.
Source: Zhai et al. 2023 (arXiv 2303.15343); Tschannen et al. 2025 (2502.14786); transformers 5.23 `models/siglip`,
whose classes the fixed-resolution releases of SigLIP2 use as well. Sizes of the releases: open_clip 3.3's
configurations of the same weights.

There is no class token: a learned query pools the patches. The text half is not causal and pools its last token, which
padding up to `max_length` is meant to be; the releases were trained without a mask of it. Pictures of 384 pixels in
patches of 14 lose 6 pixels on the right and below, as they do in transformers. Pictures of other sizes have their
positions resampled as with `interpolate_pos_encoding=True`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8

from vla_jax.encoders.attention_pooling import AttentionPooling
from vla_jax.encoders.clip import ClipTextConfig
from vla_jax.encoders.settings import PICTURE, TRANSFORMER, counts, require
from vla_jax.encoders.vit import LearnedPositions, VitConfig
from vla_jax.nn.linear import linear
from vla_jax.nn.norms import l2_normalize

FIXED = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
"""What all releases say, of both halves."""
SIZES = TRANSFORMER | {"intermediate_size": "mlp_width"}
VISION_SIZES = SIZES | PICTURE
TEXT_SIZES = SIZES | {"vocab_size": "vocab_size", "max_position_embeddings": "max_length"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SiglipConfig:
    """Either half may be left out."""

    vision: VitConfig | None
    text: ClipTextConfig | None
    projection_width: int | None = None
    """Of a text's embedding; None: there is no text half."""
    pools: bool = True
    """False: the vision half ends with its patches."""

    def build(self, rngs: nnx.Rngs) -> "Siglip":
        return Siglip(self, rngs=rngs)

    def settings(self) -> dict[str, Any]:
        """What `config.json` of a Hugging Face folder with these weights says, in its own words."""
        settings: dict[str, Any] = {}
        if self.vision is not None:
            sizes = {theirs: getattr(self.vision, ours) for theirs, ours in VISION_SIZES.items()}
            settings["vision_config"] = FIXED | sizes | {"vision_use_head": self.pools}
        if self.text is not None:
            sizes = {theirs: getattr(self.text, ours) for theirs, ours in TEXT_SIZES.items()}
            settings["text_config"] = FIXED | sizes | {"projection_size": self.projection_width}
        return settings


class Siglip(nnx.Module):
    def __init__(self, config: SiglipConfig, *, rngs: nnx.Rngs):
        vision, text = config.vision, config.text
        self.vision = None if vision is None else vision.build(rngs)
        self.pooling = AttentionPooling(vision, rngs=rngs) if vision is not None and config.pools else None
        self.text = None if text is None else text.build(rngs)
        self.text_head = None if text is None else _text_head(text, config.projection_width, rngs)
        whole = vision is not None and text is not None
        self.logit_scale = nnx.Param(jnp.log(jnp.float32(10.0))) if whole else None
        self.logit_bias = nnx.Param(jnp.float32(-10.0)) if whole else None

    def vision_embedding(self, images: UInt8[Array, "b y x 3"]) -> Float[Array, "b e"]:
        """Unit length."""
        return l2_normalize(self.pooling(self.vision(images).tokens))

    def text_embedding(self, ids: Int[Array, "b t"], mask: Bool[Array, "b t"] | None = None) -> Float[Array, "b e"]:
        """Unit length, of the last token, whatever it is. Args: mask: None, as in pretraining: padding counts."""
        mask = jnp.ones(ids.shape, bool) if mask is None else mask
        return l2_normalize(self.text_head(self.text(ids, mask)[:, -1]))

    def logits(self, images: UInt8[Array, "b y x 3"], ids: Int[Array, "c t"]) -> Float[Array, "b c"]:
        """Of the sigmoid that says whether a picture and a text belong together."""
        scale, bias = self.logit_scale, self.logit_bias
        assert scale is not None, "both halves are needed"
        assert bias is not None
        cosines = self.vision_embedding(images) @ self.text_embedding(ids).T
        return cosines * jnp.exp(scale[...]) + bias[...]


def _text_head(text: ClipTextConfig, width: int | None, rngs: nnx.Rngs) -> nnx.Linear:
    assert width is not None, "the text half projects its embedding"
    return linear(text.width, width, ("embed", "feature"), rngs=rngs)


def vision_config(
    *, width: int, num_layers: int, num_heads: int, mlp_width: int, patch_size: int, image_size: int
) -> VitConfig:
    """The vision half of any SigLIP."""
    return VitConfig(
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        mlp_width=mlp_width,
        patch_size=patch_size,
        image_size=image_size,
        activation="gelu_tanh",
        epsilon=1e-6,
        positions=LearnedPositions(of_class=False, interpolation="bicubic"),
        class_token=False,
        cropped=bool(image_size % patch_size),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


_text = functools.partial(ClipTextConfig, activation="gelu_tanh", epsilon=1e-6, causal=False)


def from_settings(settings: Mapping[str, Any]) -> SiglipConfig:
    """The model whose `settings()` these are; a half whose section is absent is left out."""
    vision, text = (settings.get(section) for section in ("vision_config", "text_config"))
    for half in (vision, text):
        require(half or FIXED, FIXED)
    return SiglipConfig(
        vision=None if vision is None else vision_config(**counts(vision, VISION_SIZES)),
        text=None if text is None else _text(**counts(text, TEXT_SIZES)),
        projection_width=None if text is None else text["projection_size"],
        pools=vision is None or vision["vision_use_head"],
    )


TOWERS: dict[str, dict[str, Any]] = {
    "b": {"width": 768, "num_layers": 12, "num_heads": 12, "mlp_width": 3072},
    "l": {"width": 1024, "num_layers": 24, "num_heads": 16, "mlp_width": 4096},
    "so400m": {"width": 1152, "num_layers": 27, "num_heads": 16, "mlp_width": 4304},
}
"""Of both halves."""


def _preset(tower: str, patch_size: int, image_size: int, vocab_size: int, max_length: int = 64) -> SiglipConfig:
    sizes = TOWERS[tower]
    return SiglipConfig(
        vision=vision_config(**sizes, patch_size=patch_size, image_size=image_size),
        text=_text(**sizes, vocab_size=vocab_size, max_length=max_length),
        projection_width=sizes["width"],
    )


RELEASES: dict[str, tuple] = {
    "siglip_b16_224": ("b", 16, 224, 32_000),
    "siglip_b16_256": ("b", 16, 256, 32_000),
    "siglip_b16_384": ("b", 16, 384, 32_000),
    "siglip_b16_512": ("b", 16, 512, 32_000),
    "siglip_l16_256": ("l", 16, 256, 32_000),
    "siglip_l16_384": ("l", 16, 384, 32_000),
    "siglip_so400m14_224": ("so400m", 14, 224, 32_000, 16),
    "siglip_so400m14_384": ("so400m", 14, 384, 32_000),
    "siglip2_b32_256": ("b", 32, 256, 256_000),
    "siglip2_b16_224": ("b", 16, 224, 256_000),
    "siglip2_b16_256": ("b", 16, 256, 256_000),
    "siglip2_b16_384": ("b", 16, 384, 256_000),
    "siglip2_b16_512": ("b", 16, 512, 256_000),
    "siglip2_l16_256": ("l", 16, 256, 256_000),
    "siglip2_l16_384": ("l", 16, 384, 256_000),
    "siglip2_l16_512": ("l", 16, 512, 256_000),
    "siglip2_so400m14_224": ("so400m", 14, 224, 256_000),
    "siglip2_so400m14_384": ("so400m", 14, 384, 256_000),
    "siglip2_so400m16_256": ("so400m", 16, 256, 256_000),
    "siglip2_so400m16_384": ("so400m", 16, 384, 256_000),
    "siglip2_so400m16_512": ("so400m", 16, 512, 256_000),
}
"""Tower, pixels of a patch's and of a picture's side, vocabulary, and the length of texts where it is not 64."""
PRESETS: dict[str, Callable[[], SiglipConfig]] = {
    name: functools.partial(_preset, *sizes) for name, sizes in RELEASES.items()
}


def tiny(*, image_size: int = 40) -> SiglipConfig:
    """The CPU twin; its sizes differ from one another so that a mixed-up axis cannot pass."""
    return SiglipConfig(
        vision=vision_config(width=20, num_layers=3, num_heads=2, mlp_width=36, patch_size=8, image_size=image_size),
        text=_text(width=24, num_layers=2, num_heads=3, mlp_width=44, vocab_size=50, max_length=9),
        projection_width=20,
    )
