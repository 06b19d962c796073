"""SAM's image encoder: a ViT whose blocks attend within windows, and every few blocks over the whole picture.

Axes: b batch, y x pixels, r c rows and columns of the grid, n = r c patches (row-major), w windows, s side of a window,
m = s s places of a window, h heads, f head width, d width, l layers.
Source: Kirillov et al. 2023; Li et al. 2022 (ViTDet); relative positions: Li et al. 2022 (MViTv2, Eq. 3-4).

A picture's longer side has the encoder's size; what is missing on the right or below is zero after normalisation, as
SAM was trained. Where windows do not fill the grid, zeros are added after the norm: padding attends and is attended to.
A global block is a block with one window as large as the grid, and a table of its own.
Differs: transformers resamples tables of relative positions for other sizes; here sizes are the table's.
"""

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, UInt8

from vla_jax.encoders.vit import PatchEmbedding, VitConfig
from vla_jax.nn.attention import Projections, attend
from vla_jax.nn.block import BlockConfig
from vla_jax.nn.convolution import convolution
from vla_jax.nn.norms import layer_norm
from vla_jax.nn.stack import NO_TAPS, Taps, checkpointed
from vla_jax.types import InputError, TokenGrid

NECK_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamImageEncoderConfig:
    vit: VitConfig
    """Of the blocks, the patches, and the square pictures."""
    num_groups: int = 4
    """The blocks are so many equal groups; the last of each is global, the others work in windows."""
    window_size: int = 14
    """Patches along a side of a window."""
    out_width: int = 256

    def __post_init__(self):
        layers = self.vit.num_layers
        if layers % self.num_groups or layers < 2 * self.num_groups:
            raise InputError(
                f"sam: {layers} layers do not make {self.num_groups} equal groups of window blocks and a global one"
            )

    @property
    def period(self) -> int:
        """Blocks of a group."""
        return self.vit.num_layers // self.num_groups

    @property
    def global_layers(self) -> list[int]:
        return list(range(self.period - 1, self.vit.num_layers, self.period))

    def build(self, rngs: nnx.Rngs) -> "SamImageEncoder":
        return SamImageEncoder(self, rngs=rngs)


class SamBlock(nnx.Module):
    """A block whose attention stays within windows and knows how far apart rows and columns are."""

    def __init__(self, config: BlockConfig, window_size: int, grid_size: int, *, rngs: nnx.Rngs):
        self.window_size, self.grid_size = window_size, grid_size
        self.block = config.build(rngs)
        shape, init = (2 * window_size - 1, config.attention.features), nnx.initializers.normal(0.02)
        self.row_positions = nnx.Param(init(rngs.params(), shape), logical_axes=("position", None))
        self.column_positions = nnx.Param(init(rngs.params(), shape), logical_axes=("position", None))

    def __call__(self, x: Float[Array, "b n d"]) -> tuple[Float[Array, "b n d"], Projections]:
        """The projections are those of the windows, padding included, [b w, m, h, f]."""
        attention = self.block.attention
        projections = attention.projections(self._windows(self.block.attention_norm(x)))
        attended = attend(*projections, bias=self._position_scores(projections.query))
        attended = attention.out(attended.reshape(*attended.shape[:2], -1))
        return self.block.finish(x, self.grid(attended)), projections

    def grid(self, windows: Float[Array, "bw m d"]) -> Float[Array, "b n d"]:
        """What windows hold, back in its place and without padding."""
        side, size = self.window_size, self.grid_size
        across = -(-size // side)
        whole = rearrange(windows, "(b r c) (y x) d -> b (r y) (c x) d", r=across, c=across, y=side)
        return whole[:, :size, :size].reshape(whole.shape[0], size * size, -1)

    def _windows(self, x: Float[Array, "b n d"]) -> Float[Array, "bw m d"]:
        side, size = self.window_size, self.grid_size
        padding = -size % side
        whole = x.reshape(len(x), size, size, -1)
        whole = jnp.pad(whole, ((0, 0), (0, padding), (0, padding), (0, 0)))
        return rearrange(whole, "b (r y) (c x) d -> (b r c) (y x) d", y=side, x=side)

    def _position_scores(self, query: Float[Array, "bw m h f"]) -> Float[Array, "bw h m m"]:
        """Of the query as it is: only its product with the key is divided by sqrt(f)."""
        side = self.window_size
        distances = jnp.arange(side)[:, None] - jnp.arange(side) + side - 1
        rows, columns = self.row_positions[...][distances], self.column_positions[...][distances]
        placed = rearrange(query, "b (y x) h f -> b h y x f", y=side)
        vertical = jnp.einsum("bhyxf,ykf->bhyxk", placed, rows)
        horizontal = jnp.einsum("bhyxf,xkf->bhyxk", placed, columns)
        scores = vertical[..., :, None] + horizontal[..., None, :]
        return scores.reshape(*scores.shape[:2], side * side, side * side)


class SamImageEncoder(nnx.Module):
    def __init__(self, config: SamImageEncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        vit, out = config.vit, config.out_width
        shape = (vit.grid_size, vit.grid_size, vit.width)
        self.patches = PatchEmbedding(vit, rngs=rngs)
        self.positions = nnx.Param(
            nnx.initializers.normal(0.02)(rngs.params(), shape), logical_axes=("position", "position", "embed")
        )
        self.window_blocks = self._stack(config.window_size, vit.num_layers - config.num_groups, rngs)
        self.global_blocks = self._stack(vit.grid_size, config.num_groups, rngs)
        self.neck_in = convolution(vit.width, out, 1, use_bias=False, rngs=rngs)
        self.neck_in_norm = layer_norm(out, epsilon=NECK_EPSILON, rngs=rngs)
        self.neck_out = convolution(out, out, 3, use_bias=False, rngs=rngs)
        self.neck_out_norm = layer_norm(out, epsilon=NECK_EPSILON, rngs=rngs)

    def __call__(self, images: UInt8[Array, "b y x 3"], *, taps: Taps = NO_TAPS) -> TokenGrid:
        """The image embedding; what `taps` ask for is as the blocks gave it, before the neck, without padding."""
        size = self.config.vit.grid_size
        x, layers, projections = self._run(self.embed(images), taps)
        whole = self.neck_in_norm(self.neck_in(x.reshape(len(x), size, size, -1)))
        tokens = self.neck_out_norm(self.neck_out(whole)).reshape(len(x), size * size, -1)
        return TokenGrid(tokens=tokens, rows=size, columns=size, layers=layers, projections=projections)

    def embed(self, images: UInt8[Array, "b y x 3"]) -> Float[Array, "b n d"]:
        """What the first block reads."""
        (height, width), size = images.shape[1:3], self.config.vit.image_size
        if max(height, width) != size:
            raise InputError(f"pictures of {height} x {width} pixels; SAM expects a longer side of {size}")
        pixels = self.patches.normalize(images)
        pixels = jnp.pad(pixels, ((0, 0), (0, size - height), (0, size - width), (0, 0)))
        return self.patches.project(pixels) + self.positions[...].reshape(-1, self.config.vit.width)

    def _run(
        self, x: Float[Array, "b n d"], taps: Taps
    ) -> tuple[Float[Array, "b n d"], Float[Array, "l b n d"] | None, Projections | None]:
        """One scan over the groups; a group's blocks are written out, so that only what is asked for is kept."""
        assert (taps.kept, taps.edit) == (None, None), "this encoder has its own scan, which knows neither"
        period, depth = self.config.period, self.config.vit.num_layers
        if out_of_range := sorted(layer for kind in taps.asked for layer in kind if not 0 <= layer < depth):
            raise InputError(f"layers {out_of_range} were asked for; there are 0 to {depth - 1}")
        asked = [sorted({layer % period for layer in kind}) for kind in taps.asked]

        def run(block: SamBlock, x: Array) -> tuple[Array, Projections]:
            return block(x)

        run = checkpointed(run, self.config.vit.remat)

        def group(x: Array, blocks: tuple[SamBlock, SamBlock]):
            windows, last = blocks
            layers, projections = {}, {}
            for place in range(period):
                block = last if place == period - 1 else jax.tree.map(lambda a, place=place: a[place], windows)
                x, found = run(block, x)
                layers[place], projections[place] = x, (block, found)
            kept = [_on_grid(*projections[place]) for place in asked[1]]
            return x, ([layers[place] for place in asked[0]], kept)

        windows = jax.tree.map(lambda a: a.reshape(-1, period - 1, *a.shape[1:]), self.window_blocks)
        x, kept = jax.lax.scan(group, x, (windows, self.global_blocks))
        layers, projections = (
            [_of_group(found[places.index(layer % period)], layer // period) for layer in kind]
            for kind, places, found in zip(taps.asked, asked, kept, strict=True)
        )
        return x, _stacked(layers), _stacked(projections)

    def _stack(self, window_size: int, num_layers: int, rngs: nnx.Rngs) -> SamBlock:
        block, size = self.config.vit.block, self.config.vit.grid_size
        keys = jax.random.split(rngs.params(), num_layers)
        return jax.vmap(lambda key: SamBlock(block, window_size, size, rngs=nnx.Rngs(key)))(keys)


def _on_grid(block: SamBlock, windows: Projections) -> Projections:
    """[b, n, h, f] each."""
    merged = (block.grid(x.reshape(*x.shape[:2], -1)).reshape(-1, block.grid_size**2, *x.shape[2:]) for x in windows)
    return Projections(*merged)


def _of_group(found, group: int):
    return jax.tree.map(lambda stacked: stacked[group], found)


def _stacked(found: list):
    """None where nothing was asked for."""
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *found) if found else None
