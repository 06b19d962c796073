"""CLIP: a vision and a causal text transformer that share an embedding space.

Axes: b batch, y x pixels, n patches, t text tokens, d width, e shared width.
Source: Radford et al. 2021; EF-VLA Eq. 1-3: LN_post(X_attn) w_v of the patches and LN_final(f_l) w_l of every
text token, both of unit length.

Padding stands on the right, so that the causal mask alone keeps it from valid tokens; padded keys are masked
too, as transformers does when it is given an attention mask. The pooled text embedding is the last valid
token's (end of text), which is where transformers finds its first `eos_token_id`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8

from vla_jax.encoders.vit import LastAttention, VitConfig
from vla_jax.nn import masks
from vla_jax.nn.block import plain_block
from vla_jax.nn.linear import linear
from vla_jax.nn.lookup import lookup
from vla_jax.nn.mlp import ACTIVATION_NAMES, Activation, activation_of
from vla_jax.nn.norms import l2_normalize, layer_norm
from vla_jax.nn.stack import NO_TAPS, Remat, StackConfig, StackOutput, Taps
from vla_jax.types import InputError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipTextConfig:
    width: int
    num_layers: int
    num_heads: int
    mlp_width: int
    vocab_size: int = 49408
    max_length: int = 77
    """Rows of the position table; shorter texts are welcome."""
    activation: Activation = "quick_gelu"
    epsilon: float = 1e-5
    causal: bool = True
    """False: every token attends to all (SigLIP)."""
    remat: Remat = "full"

    def build(self, rngs: nnx.Rngs) -> "ClipText":
        return ClipText(self, rngs=rngs)


class ClipText(nnx.Module):
    def __init__(self, config: ClipTextConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.tokens = _table(config.vocab_size, config.width, "vocab", rngs)
        self.positions = _table(config.max_length, config.width, "position", rngs)
        block = plain_block(
            width=config.width,
            num_heads=config.num_heads,
            mlp_width=config.mlp_width,
            activation=config.activation,
            epsilon=config.epsilon,
        )
        self.stack = StackConfig(block=block, num_layers=config.num_layers, remat=config.remat).build(rngs)
        self.final_norm = layer_norm(config.width, epsilon=config.epsilon, rngs=rngs)

    def __call__(self, ids: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> Float[Array, "b t d"]:
        """LN_final(f_l) of every token. An id outside the vocabulary gives NaN, never another token's row."""
        return self.final_norm(self.hidden(ids, mask).tokens)

    def hidden(self, ids: Int[Array, "b t"], mask: Bool[Array, "b t"], *, taps: Taps = NO_TAPS) -> StackOutput:
        """Output of the stack before the final norm, and what `taps` ask for."""
        length, limit = ids.shape[-1], self.config.max_length
        if length > limit:
            raise InputError(f"text_length={length}: the position table has {limit} rows; at most {limit} expected")
        x = lookup(self.tokens[...], ids) + self.positions[...][:length]
        order = masks.causal(length) if self.config.causal else jnp.ones((length, length), bool)
        return self.stack.run(x, taps, mask=order & mask[:, None, :])


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Either half may be left out."""

    vision: VitConfig | None
    text: ClipTextConfig | None
    projection_width: int

    def build(self, rngs: nnx.Rngs) -> "Clip":
        return Clip(self, rngs=rngs)

    def settings(self) -> dict[str, Any]:
        """What `config.json` of a Hugging Face folder with these weights says, in its own words."""
        settings: dict[str, Any] = {"projection_dim": self.projection_width}
        if self.vision is not None:
            sizes = {"image_size": self.vision.image_size, "patch_size": self.vision.patch_size}
            settings["vision_config"] = _block_settings(self.vision) | sizes
        if self.text is not None:
            sizes = {"vocab_size": self.text.vocab_size, "max_position_embeddings": self.text.max_length}
            settings["text_config"] = _block_settings(self.text) | sizes
        return settings


class Clip(nnx.Module):
    """`logit_scale` takes no part in any feature; it is kept so that weights go out as they came in."""

    def __init__(self, config: ClipConfig, *, rngs: nnx.Rngs):
        width, axes = config.projection_width, ("embed", "feature")
        vision, text = config.vision, config.text
        project = functools.partial(linear, out_width=width, axes=axes, use_bias=False, rngs=rngs)
        self.vision = None if vision is None else vision.build(rngs)
        self.vision_projection = None if vision is None else project(vision.width)
        self.text = None if text is None else text.build(rngs)
        self.text_projection = None if text is None else project(text.width)
        whole = vision is not None and text is not None
        self.logit_scale = nnx.Param(jnp.log(jnp.float32(1 / 0.07))) if whole else None

    def vision_attention(
        self, images: UInt8[Array, "b y x 3"], mode: LastAttention | None = "qk"
    ) -> Float[Array, "b n e"]:
        """LN_post(X_attn) w_v of the last block's patches, unit length: ClearCLIP's dense features.

        Args: mode: None: of X_out, the whole block's output.
        """
        grid = self.vision(images, last_attention=mode)
        return l2_normalize(self.vision_projection(grid.tokens))

    def vision_embedding(self, images: UInt8[Array, "b y x 3"]) -> Float[Array, "b e"]:
        """CLIP's embedding of a picture (class token), unit length."""
        prefix = self.vision(images).prefix
        assert prefix is not None, "CLIP's vision transformer has a class token"
        return l2_normalize(self.vision_projection(prefix[:, 0]))

    def text_tokens(self, ids: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> Float[Array, "b t e"]:
        """LN_final(f_l) w_l of every token, unit length."""
        return l2_normalize(self.text_projection(self.text(ids, mask)))

    def text_embedding(self, ids: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> Float[Array, "b e"]:
        """CLIP's embedding of a text (end token), unit length."""
        last = jnp.sum(mask, axis=-1) - 1
        return jnp.take_along_axis(self.text_tokens(ids, mask), last[:, None, None], axis=1)[:, 0]


def clip_b32() -> ClipConfig:
    return ClipConfig(vision=_vision(768, 12, 12, patch_size=32), text=_text(512, 8), projection_width=512)


def clip_b16() -> ClipConfig:
    return ClipConfig(vision=_vision(768, 12, 12, patch_size=16), text=_text(512, 8), projection_width=512)


def clip_l14() -> ClipConfig:
    return ClipConfig(vision=_vision(1024, 24, 16, patch_size=14), text=_text(768, 12), projection_width=768)


PRESETS = {"clip_b32": clip_b32, "clip_b16": clip_b16, "clip_l14": clip_l14}


def from_settings(settings: Mapping[str, Any]) -> ClipConfig:
    """The model whose `settings()` these are; a half whose section is absent is left out."""
    vision, text = (settings.get(section) for section in ("vision_config", "text_config"))
    return ClipConfig(
        vision=None if vision is None else _vision_of(vision),
        text=None if text is None else ClipTextConfig(**_sizes(text), **_renamed(text, TEXT_SIZES)),
        projection_width=settings["projection_dim"],
    )


def clip_tiny(*, image_size: int = 32, vocab_size: int = 512) -> ClipConfig:
    """The CPU twin; its widths differ from one another so that a mixed-up axis cannot pass."""
    vision = dataclasses.replace(_vision(24, 3, 3, patch_size=8), mlp_width=40, image_size=image_size)
    text = dataclasses.replace(_text(20, 2), num_layers=2, mlp_width=36, vocab_size=vocab_size)
    return ClipConfig(vision=vision, text=text, projection_width=28)


def _vision(width: int, num_layers: int, num_heads: int, *, patch_size: int) -> VitConfig:
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


def _text(width: int, num_heads: int) -> ClipTextConfig:
    return ClipTextConfig(width=width, num_layers=12, num_heads=num_heads, mlp_width=4 * width)


def _table(rows: int, width: int, axis: str, rngs: nnx.Rngs) -> nnx.Param:
    return nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (rows, width)), logical_axes=(axis, "embed"))


def _block_settings(config: VitConfig | ClipTextConfig) -> dict[str, Any]:
    sizes = {theirs: getattr(config, ours) for theirs, ours in SIZES.items()}
    return sizes | {"hidden_act": ACTIVATION_NAMES[config.activation]}


TEXT_SIZES = {"vocab_size": "vocab_size", "max_position_embeddings": "max_length"}
SIZES = {
    "hidden_size": "width",
    "intermediate_size": "mlp_width",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "layer_norm_eps": "epsilon",
}
"""transformers' words -> ours."""


def _vision_of(settings: Mapping[str, Any]) -> VitConfig:
    sizes = _sizes(settings) | _renamed(settings, {"image_size": "image_size", "patch_size": "patch_size"})
    return dataclasses.replace(_vision(1, 1, 1, patch_size=1), **sizes)  # whose sizes are all replaced


def _sizes(settings: Mapping[str, Any]) -> dict[str, Any]:
    return _renamed(settings, SIZES) | {"activation": activation_of(settings)}


def _renamed(settings: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {ours: settings[theirs] for theirs, ours in names.items()}
