"""The vision transformer core that every picture encoder configures.

Axes: b batch, y x pixels, n patches (row-major), m class and register tokens, s = m + n, l layers, d width.
Order of tokens: class, registers, patches. Learned positions are added to class and patches, before the
registers join. Source: Dosovitskiy et al. 2020; EF-VLA Eq. 1-3 for the attention output of the last block.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, UInt8

from vla_jax.nn.block import BlockConfig
from vla_jax.nn.mlp import Activation
from vla_jax.nn.norms import layer_norm
from vla_jax.nn.stack import Remat, StackConfig
from vla_jax.types import InputError, TokenGrid

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

LastAttention = Literal["qk", "qq"]
"""Scores of the last block's attention: EF-VLA's plain q k, or the self-self q q of the original ClearCLIP."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VitConfig:
    width: int
    num_layers: int
    num_heads: int
    mlp_width: int
    patch_size: int
    image_size: int = 224
    """Pixels; pictures are square."""
    activation: Activation = "gelu"
    epsilon: float = 1e-6
    """Of every layer norm. CLIP's is 1e-5."""
    class_token: bool = True
    num_registers: int = 0
    pre_norm: bool = False
    """A layer norm before the first block (CLIP)."""
    patch_bias: bool = True
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    """Of RGB values in 0..1."""
    remat: Remat = "full"

    def __post_init__(self):
        if self.image_size % self.patch_size:
            raise InputError(f"image_size={self.image_size} is not a multiple of patch_size={self.patch_size}")

    @property
    def grid_size(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def prefix_length(self) -> int:
        return int(self.class_token) + self.num_registers

    def build(self, rngs: nnx.Rngs) -> "Vit":
        return Vit(self, rngs=rngs)


class PatchEmbedding(nnx.Module):
    """Normalises pictures and projects each patch: a convolution with stride = kernel, as one matrix product."""

    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs):
        self.patch_size = config.patch_size
        self.mean, self.std = config.mean, config.std
        init = nnx.initializers.lecun_normal(in_axis=(0, 1, 2), out_axis=3)
        shape = (config.patch_size, config.patch_size, 3, config.width)
        self.kernel = nnx.Param(
            init(rngs.params(), shape, jnp.float32), logical_axes=("patch", "patch", "feature", "embed")
        )
        self.bias = nnx.Param(jnp.zeros(config.width), logical_axes=("embed",)) if config.patch_bias else None

    def __call__(self, images: UInt8[Array, "b y x 3"]) -> Float[Array, "b n d"]:
        kernel = self.kernel[...]
        pixels = (images.astype(jnp.float32) / 255.0 - jnp.array(self.mean)) / jnp.array(self.std)
        size = self.patch_size
        patches = rearrange(pixels, "b (r y) (c x) k -> b (r c) (y x k)", y=size, x=size).astype(kernel.dtype)
        embedded = patches @ rearrange(kernel, "y x k d -> (y x k) d")
        return embedded if self.bias is None else embedded + self.bias[...]


class Vit(nnx.Module):
    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs):
        self.config = config
        positions = config.grid_size**2 + int(config.class_token)
        self.patches = PatchEmbedding(config, rngs=rngs)
        self.class_token = self._table((), rngs) if config.class_token else None
        self.registers = self._table((config.num_registers,), rngs) if config.num_registers else None
        self.positions = self._table((positions,), rngs)
        self.pre_norm = layer_norm(config.width, epsilon=config.epsilon, rngs=rngs) if config.pre_norm else None
        block = BlockConfig(
            width=config.width,
            num_heads=config.num_heads,
            mlp_width=config.mlp_width,
            activation=config.activation,
            epsilon=config.epsilon,
        )
        self.stack = StackConfig(block=block, num_layers=config.num_layers, remat=config.remat).build(rngs)
        self.final_norm = layer_norm(config.width, epsilon=config.epsilon, rngs=rngs)

    def __call__(
        self,
        images: UInt8[Array, "b y x 3"],
        *,
        last_attention: LastAttention | None = None,
        layers: tuple[int, ...] = (),
    ) -> TokenGrid:
        """The tokens of `hidden` after the final norm; `TokenGrid.layers` before it."""
        tokens, taps = self.hidden(images, last_attention=last_attention, layers=layers)
        tokens = self.final_norm(tokens)
        split, side = self.config.prefix_length, self.config.grid_size
        return TokenGrid(
            tokens=tokens[:, split:],
            rows=side,
            columns=side,
            prefix=tokens[:, :split] if split else None,
            layers=None if taps is None else taps[:, :, split:],
        )

    def hidden(
        self,
        images: UInt8[Array, "b y x 3"],
        *,
        last_attention: LastAttention | None = None,
        layers: tuple[int, ...] = (),
    ) -> tuple[Float[Array, "b s d"], Float[Array, "l b s d"] | None]:
        """Output of the stack before the final norm, and of the blocks in `layers` (0-based).

        With `last_attention` the output is instead X_attn = Proj(Attn(q, k, v)) of the last block, without the
        residual; that block's perceptron is not run, and it cannot be asked for in `layers`.
        """
        depth = self.config.num_layers
        stop = depth if last_attention is None else depth - 1
        if out_of_range := [layer for layer in layers if not 0 <= layer < stop]:
            raise InputError(f"layers {out_of_range} of an encoder were asked for; it runs {stop} whole blocks, from 0")
        x = self.embed(images)
        if layers:
            x, outputs = self.stack.outputs(x, stop=stop)
            taps = outputs[jnp.array(layers)]
        else:
            x, taps = self.stack(x, stop=stop), None
        if last_attention is not None:
            x = self.stack.block(depth - 1).attention_output(x, scores=last_attention)
        return x, taps

    def embed(self, images: UInt8[Array, "b y x 3"]) -> Float[Array, "b s d"]:
        """What the first block reads."""
        size = self.config.image_size
        if images.shape[1:3] != (size, size):
            raise InputError(
                f"pictures of {images.shape[1]} x {images.shape[2]} pixels; the encoder expects {size} x {size}"
            )
        x = self.patches(images)
        if self.class_token is not None:
            x = jnp.concatenate([self._repeat(self.class_token, len(x)), x], axis=1)
        x = x + self.positions[...]
        if self.registers is not None:
            split = int(self.config.class_token)
            x = jnp.concatenate([x[:, :split], self._repeat(self.registers, len(x)), x[:, split:]], axis=1)
        return x if self.pre_norm is None else self.pre_norm(x)

    def _table(self, rows: tuple[int, ...], rngs: nnx.Rngs) -> nnx.Param:
        init = nnx.initializers.normal(0.02)
        axes = ("position",) * len(rows) + ("embed",)
        return nnx.Param(init(rngs.params(), (*rows, self.config.width)), logical_axes=axes)

    def _repeat(self, tokens: nnx.Param, batch: int) -> Float[Array, "b m d"]:
        return jnp.broadcast_to(tokens[...], (batch, tokens[...].size // self.config.width, self.config.width))


def vit_ti_half(image_size: int = 224) -> VitConfig:
    """ViT-Ti/16 of half its depth, trained from scratch (EF-VLA without CLIP vision)."""
    return VitConfig(width=192, num_layers=6, num_heads=3, mlp_width=768, patch_size=16, image_size=image_size)


def vit_tiny(image_size: int = 32) -> VitConfig:
    """The CPU twin of `vit_ti_half`."""
    return VitConfig(width=24, num_layers=2, num_heads=2, mlp_width=40, patch_size=8, image_size=image_size)
