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
from jaxtyping import Array, Float, Float32, UInt8

from vla_jax.nn.attention import ALL_PROJECTIONS, AttentionConfig, Projection
from vla_jax.nn.block import BlockConfig
from vla_jax.nn.interpolation import Method, resize_grid
from vla_jax.nn.mlp import Activation, GatedMlpConfig, MlpConfig
from vla_jax.nn.norms import LayerNormConfig, layer_norm
from vla_jax.nn.rotary import Rotation, axial_rotation, grid_rotation, with_still_prefix
from vla_jax.nn.stack import NO_TAPS, Remat, StackConfig, StackOutput, Taps
from vla_jax.types import InputError, PictureNormalization, TokenGrid

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

LastAttention = Literal["qk", "qq"]
"""Scores of the last block's attention: EF-VLA's plain q k, or the self-self q q of the original ClearCLIP."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Positions:
    """How an encoder knows where a patch lies. One of the classes below."""

    def rotation(self, rows: int, columns: int, head_width: int) -> Rotation | None:
        """Of the patches; None: nothing is turned."""
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedPositions(Positions):
    """A table over the grid of `image_size`, added to the patches."""

    of_class: bool = True
    """True: the class token has a row of its own, the first."""
    interpolation: Method | None = None
    """How the table is resampled for pictures of other sizes; None: those are refused."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AxialPositions(Positions):
    """Rotary, by row and column of the patches; class and registers are not turned (DINOv3)."""

    theta: float = 100.0

    def rotation(self, rows: int, columns: int, head_width: int) -> Rotation:
        return axial_rotation(rows, columns, head_width, self.theta)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedRotaryPositions(LearnedPositions):
    """Both: a table that is added, and patches turned by their row and column, counted from 0 (Qwen3-VL)."""

    theta: float = 10_000.0

    def rotation(self, rows: int, columns: int, head_width: int) -> Rotation:
        return grid_rotation(rows, columns, head_width, self.theta)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VitConfig:
    width: int
    num_layers: int
    num_heads: int
    mlp_width: int
    patch_size: int
    image_size: int = 224
    """Pixels of a side of the pictures that learned positions belong to."""
    activation: Activation = "gelu"
    gated_mlp: bool = False
    """True: three layers, down(activation(gate) * up)."""
    epsilon: float = 1e-6
    """Of every layer norm. CLIP's is 1e-5."""
    attention_biases: tuple[Projection, ...] = ALL_PROJECTIONS
    layer_scale: float | None = None
    """Initial value of LayerScale; None: there is none."""
    positions: Positions = LearnedPositions()
    class_token: bool = True
    num_registers: int = 0
    mask_token: bool = False
    """True: the token that stood for hidden patches in pretraining is kept, to go out as it came. It takes no part."""
    pre_norm: bool = False
    """A layer norm before the first block (CLIP)."""
    patch_bias: bool = True
    cropped: bool = False
    """True: pixels to the right of and below the last whole patch are left out; False: such pictures are refused."""
    num_frames: int | None = None
    """Frames of a video that a patch spans: the kernel has an axis of time, and a still picture stands in all frames
    (Qwen3-VL: 2). None: there is no such axis."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    """Of RGB values in 0..1."""
    remat: Remat = "full"

    def __post_init__(self):
        if self.image_size % self.patch_size and not self.cropped:
            raise InputError(f"image_size={self.image_size} is not a multiple of patch_size={self.patch_size}")

    @property
    def grid_size(self) -> int:
        """Patches along one side of a picture of `image_size`."""
        return self.image_size // self.patch_size

    @property
    def normalization(self) -> PictureNormalization:
        return PictureNormalization(self.mean, self.std)

    @property
    def prefix_length(self) -> int:
        return int(self.class_token) + self.num_registers

    @property
    def block(self) -> BlockConfig:
        mlp = GatedMlpConfig(hidden_width=self.mlp_width, activation=self.activation, use_bias=True)
        return BlockConfig(
            attention=AttentionConfig(width=self.width, num_heads=self.num_heads, biases=self.attention_biases),
            mlp=mlp if self.gated_mlp else MlpConfig(hidden_width=self.mlp_width, activation=self.activation),
            norm=LayerNormConfig(epsilon=self.epsilon),
            layer_scale=self.layer_scale,
        )

    def build(self, rngs: nnx.Rngs) -> "Vit":
        return Vit(self, rngs=rngs)


class PatchEmbedding(nnx.Module):
    """Normalises pictures and projects each patch: a convolution with stride = kernel, as one matrix product."""

    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs):
        self.patch_size = config.patch_size
        self.mean, self.std = config.mean, config.std
        time = () if config.num_frames is None else (config.num_frames,)
        shape = (*time, config.patch_size, config.patch_size, 3, config.width)
        init = nnx.initializers.lecun_normal(in_axis=range(len(shape) - 1), out_axis=-1)
        axes = ("patch",) * (len(shape) - 2) + ("feature", "embed")
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32), logical_axes=axes)
        self.bias = nnx.Param(jnp.zeros(config.width), logical_axes=("embed",)) if config.patch_bias else None

    def __call__(self, images: UInt8[Array, "b y x 3"]) -> Float[Array, "b n d"]:
        return self.project(self.normalize(images))

    def normalize(self, images: UInt8[Array, "*b y x 3"]) -> Float32[Array, "*b y x 3"]:
        return (images.astype(jnp.float32) / 255.0 - jnp.array(self.mean)) / jnp.array(self.std)

    def project(self, pixels: Float32[Array, "b y x 3"]) -> Float[Array, "b n d"]:
        kernel, size = self.kernel[...], self.patch_size
        height, width = (length - length % size for length in pixels.shape[1:3])
        pixels = pixels[:, :height, :width]
        patches = rearrange(pixels, "b (r y) (c x) k -> b (r c) (y x k)", y=size, x=size).astype(kernel.dtype)
        if kernel.ndim == 5:  # the frames of a still are equal: one product with the sum of their kernels
            kernel = kernel.sum(axis=0, dtype=jnp.float32).astype(kernel.dtype)
        embedded = patches @ rearrange(kernel, "y x k d -> (y x k) d")
        return embedded if self.bias is None else embedded + self.bias[...]


class Vit(nnx.Module):
    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.patches = PatchEmbedding(config, rngs=rngs)
        self.class_token = self._table((), rngs) if config.class_token else None
        self.registers = self._table((config.num_registers,), rngs) if config.num_registers else None
        self.mask_token = self._table((), rngs) if config.mask_token else None
        learned = config.positions
        rows = config.grid_size**2 + int(learned.of_class) if isinstance(learned, LearnedPositions) else 0
        self.positions = self._table((rows,), rngs) if rows else None
        self.pre_norm = layer_norm(config.width, epsilon=config.epsilon, rngs=rngs) if config.pre_norm else None
        self.stack = StackConfig(block=config.block, num_layers=config.num_layers, remat=config.remat).build(rngs)
        self.final_norm = layer_norm(config.width, epsilon=config.epsilon, rngs=rngs)

    def __call__(
        self,
        images: UInt8[Array, "b y x 3"],
        *,
        last_attention: LastAttention | None = None,
        taps: Taps = NO_TAPS,
        embedded: Float[Array, "b n d"] | None = None,
    ) -> TokenGrid:
        """The tokens of `hidden` after the final norm; what `taps` ask for is as the blocks gave it."""
        found = self.hidden(images, last_attention=last_attention, taps=taps, embedded=embedded)
        tokens, split = self.final_norm(found.tokens), self.config.prefix_length
        rows, columns = self.grid(images)
        return TokenGrid(
            tokens=tokens[:, split:],
            rows=rows,
            columns=columns,
            prefix=tokens[:, :split] if split else None,
            layers=None if found.layers is None else found.layers[:, :, split:],
            projections=found.projections,
        )

    def hidden(
        self,
        images: UInt8[Array, "b y x 3"],
        *,
        last_attention: LastAttention | None = None,
        taps: Taps = NO_TAPS,
        embedded: Float[Array, "b n d"] | None = None,
    ) -> StackOutput:
        """Output of the stack before the final norm, class and registers first; of the layers in `taps` as well.

        With `last_attention` the tokens are instead X_attn = Proj(Attn(q, k, v)) of the last block, without the
        residual; that block's perceptron is not run, and it cannot be asked for in `taps`.
        """
        depth = self.config.num_layers
        stop = depth if last_attention is None else depth - 1
        rotation = self.rotation(*self.grid(images))
        found = self.stack.run(self.embed(images, embedded), taps, rotation=rotation, span=(0, stop))
        if last_attention is None:
            return found
        block = self.stack.block(depth - 1)
        return found._replace(tokens=block.attention_output(found.tokens, rotation=rotation, scores=last_attention))

    def embed(
        self, images: UInt8[Array, "b y x 3"], embedded: Float[Array, "b n d"] | None = None
    ) -> Float[Array, "b s d"]:
        """What the first block reads. Args: embedded: in the place of what `patches` makes of the pictures."""
        rows, columns = self.grid(images)
        positions = self.position_table(rows, columns)
        x = self.patches(images) if embedded is None else embedded
        if positions is not None and len(positions) == rows * columns:
            x = x + positions
        if self.class_token is not None:
            x = jnp.concatenate([self._repeat(self.class_token, len(x)), x], axis=1)
        if positions is not None and len(positions) > rows * columns:
            x = x + positions
        if self.registers is not None:
            split = int(self.config.class_token)
            x = jnp.concatenate([x[:, :split], self._repeat(self.registers, len(x)), x[:, split:]], axis=1)
        return x if self.pre_norm is None else self.pre_norm(x)

    def grid(self, images: UInt8[Array, "b y x 3"]) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = images.shape[1:3]
        config, size = self.config, self.config.patch_size
        is_fixed = isinstance(config.positions, LearnedPositions) and config.positions.interpolation is None
        expected = f"{config.image_size} x {config.image_size}" if is_fixed else f"multiples of {size}"
        has_rest = (height % size or width % size) and not config.cropped
        if (is_fixed and (height, width) != (config.image_size,) * 2) or has_rest:
            raise InputError(f"pictures of {height} x {width} pixels; the encoder expects {expected}")
        return height // size, width // size

    def position_table(self, rows: int, columns: int) -> Float[Array, "n d"] | None:
        """Learned positions of a grid: the class token's first, where it has one, then the patches'."""
        if self.positions is None:
            return None
        table, side = self.positions[...], self.config.grid_size
        learned = self.config.positions
        assert isinstance(learned, LearnedPositions)
        if (rows, columns) == (side, side):
            return table
        assert learned.interpolation is not None, "`grid` refuses other sizes"
        patches = table[int(learned.of_class) :].reshape(side, side, -1)
        resized = resize_grid(patches, rows, columns, learned.interpolation).reshape(rows * columns, -1)
        return jnp.concatenate([table[: int(learned.of_class)], resized])

    def rotation(self, rows: int, columns: int) -> Rotation | None:
        """Of all tokens, for encoders whose positions are rotary."""
        turning = self.config.positions.rotation(rows, columns, self.config.width // self.config.num_heads)
        return None if turning is None else with_still_prefix(turning, self.config.prefix_length)

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
