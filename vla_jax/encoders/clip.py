"""CLIP's two halves, each with its projection into the shared text-image space.

Axes: b batch, y x pixels, n patches, t text tokens, d width, e shared width.
Source: Radford et al. 2021; EF-VLA Eq. 1-3: LN_post(X_attn) w_v of the patches and LN_final(f_l) w_l of every
text token, both of unit length.

Text attention is causal and nothing else, as OpenAI's: padding stands on the right, so no valid token sees it.
"""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8

from vla_jax.encoders.vit import LastAttention, VitConfig
from vla_jax.nn import masks
from vla_jax.nn.block import BlockConfig
from vla_jax.nn.linear import linear
from vla_jax.nn.mlp import Activation
from vla_jax.nn.norms import l2_normalize, layer_norm
from vla_jax.nn.stack import Remat, StackConfig
from vla_jax.types import InputError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
ACTIVATION_NAMES = {"gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu"}
"""Ours -> transformers'."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipVisionConfig:
    family: ClassVar[str] = "clip_vision"
    vit: VitConfig
    out_width: int
    last_attention: LastAttention = "qk"
    """What `patch_features` reads."""

    @property
    def image_size(self) -> int:
        return self.vit.image_size

    def build(self, rngs: nnx.Rngs) -> "ClipVision":
        return ClipVision(self, rngs=rngs)

    def settings(self) -> dict[str, Any]:
        """What `config.json` of a Hugging Face folder with these weights says, in its own words."""
        sizes = {"image_size": self.vit.image_size, "patch_size": self.vit.patch_size}
        return _block_settings(self.vit) | sizes | {"projection_dim": self.out_width}


class ClipVision(nnx.Module):
    def __init__(self, config: ClipVisionConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.vit = config.vit.build(rngs)
        self.projection = linear(config.vit.width, config.out_width, ("embed", "feature"), use_bias=False, rngs=rngs)

    def patch_features(self, images: UInt8[Array, "b y x 3"]) -> Float[Array, "b n e"]:
        """LN_post(X_attn) w_v of the last block's patches, unit length: ClearCLIP's dense features."""
        grid = self.vit(images, last_attention=self.config.last_attention)
        return l2_normalize(self.projection(grid.tokens))

    def embedding(self, images: UInt8[Array, "b y x 3"]) -> Float[Array, "b e"]:
        """CLIP's embedding of a picture (class token), unit length."""
        return l2_normalize(self.projection(self.vit(images).prefix[:, 0]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipTextConfig:
    family: ClassVar[str] = "clip_text"
    width: int
    num_layers: int
    num_heads: int
    mlp_width: int
    out_width: int
    vocab_size: int = 49408
    max_length: int = 77
    """Rows of the position table; shorter texts are welcome."""
    activation: Activation = "quick_gelu"
    epsilon: float = 1e-5
    remat: Remat = "full"

    def build(self, rngs: nnx.Rngs) -> "ClipText":
        return ClipText(self, rngs=rngs)

    def settings(self) -> dict[str, Any]:
        """As `ClipVisionConfig.settings`."""
        sizes = {"vocab_size": self.vocab_size, "max_position_embeddings": self.max_length}
        return _block_settings(self) | sizes | {"projection_dim": self.out_width}


class ClipText(nnx.Module):
    def __init__(self, config: ClipTextConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.tokens = _table(config.vocab_size, config.width, "vocab", rngs)
        self.positions = _table(config.max_length, config.width, "position", rngs)
        block = BlockConfig(
            width=config.width,
            num_heads=config.num_heads,
            mlp_width=config.mlp_width,
            activation=config.activation,
            epsilon=config.epsilon,
        )
        self.stack = StackConfig(block=block, num_layers=config.num_layers, remat=config.remat).build(rngs)
        self.final_norm = layer_norm(config.width, epsilon=config.epsilon, rngs=rngs)
        self.projection = linear(config.width, config.out_width, ("embed", "feature"), use_bias=False, rngs=rngs)

    def __call__(self, ids: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        """LN_final(f_l) of every token. An id outside the vocabulary gives NaN, never another token's row."""
        length, limit = ids.shape[-1], self.config.max_length
        if length > limit:
            raise InputError(f"text_length={length}: CLIP's position table has {limit} rows; at most {limit} expected")
        x = jnp.take(self.tokens[...], ids, axis=0, mode="fill") + self.positions[...][:length]
        return self.final_norm(self.stack(x, mask=masks.causal(length)))

    def token_features(self, ids: Int[Array, "b t"]) -> Float[Array, "b t e"]:
        """LN_final(f_l) w_l of every token, unit length."""
        return l2_normalize(self.projection(self(ids)))

    def embedding(self, ids: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> Float[Array, "b e"]:
        """CLIP's embedding of a text, unit length: that of its last valid token, the end of text."""
        last = jnp.sum(mask, axis=-1) - 1
        return jnp.take_along_axis(self.token_features(ids), last[:, None, None], axis=1)[:, 0]


def clip_b32_vision() -> ClipVisionConfig:
    return ClipVisionConfig(vit=_vit(width=768, num_layers=12, num_heads=12, patch_size=32), out_width=512)


def clip_b16_vision() -> ClipVisionConfig:
    return ClipVisionConfig(vit=_vit(width=768, num_layers=12, num_heads=12, patch_size=16), out_width=512)


def clip_l14_vision() -> ClipVisionConfig:
    return ClipVisionConfig(vit=_vit(width=1024, num_layers=24, num_heads=16, patch_size=14), out_width=768)


def clip_tiny_vision(*, image_size: int = 32) -> ClipVisionConfig:
    """The CPU twin; its widths differ from one another so that a mixed-up axis cannot pass."""
    vit = _vit(width=24, num_layers=3, num_heads=3, patch_size=8)
    return ClipVisionConfig(vit=dataclasses.replace(vit, mlp_width=40, image_size=image_size), out_width=28)


def clip_b_text() -> ClipTextConfig:
    """Of B/32 and of B/16: same sizes, other weights."""
    return ClipTextConfig(width=512, num_layers=12, num_heads=8, mlp_width=2048, out_width=512)


def clip_l14_text() -> ClipTextConfig:
    return ClipTextConfig(width=768, num_layers=12, num_heads=12, mlp_width=3072, out_width=768)


def clip_tiny_text(*, vocab_size: int = 512) -> ClipTextConfig:
    return ClipTextConfig(width=20, num_layers=2, num_heads=2, mlp_width=36, out_width=28, vocab_size=vocab_size)


def _vit(*, width: int, num_layers: int, num_heads: int, patch_size: int) -> VitConfig:
    return VitConfig(
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        mlp_width=4 * width,
        patch_size=patch_size,
        activation="quick_gelu",
        epsilon=1e-5,
        pre_norm=True,
        patch_bias=False,
        mean=CLIP_MEAN,
        std=CLIP_STD,
    )


def _table(rows: int, width: int, axis: str, rngs: nnx.Rngs) -> nnx.Param:
    return nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (rows, width)), logical_axes=(axis, "embed"))


def _block_settings(config: VitConfig | ClipTextConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "hidden_act": ACTIVATION_NAMES[config.activation],
        "layer_norm_eps": config.epsilon,
    }
