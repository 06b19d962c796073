"""ResNet with group norms, and where in its maps something is: a picture becomes a few expected positions.

Axes: b batch, y x pixels, r c rows and columns of a map, k keypoints, d width of a map, e width of the feature, t width
of a condition.
Source: He et al. 2016 (torchvision's resnet18); Diffusion Policy (arXiv 2303.04137), section 3.2: trained from scratch,
group norm in the place of batch norm (width / 16 groups, as its code), spatial softmax in the place of average pooling,
one encoder a camera. Spatial softmax: Levine et al. 2016; 32 keypoints and the linear layer behind them are those of
robomimic, which its published code uses. Differs: FiLM after each stage, where a condition is given.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from vla_jax.encoders.vit import IMAGENET_MEAN, IMAGENET_STD
from vla_jax.nn.convolution import padded_convolution
from vla_jax.nn.film import Film
from vla_jax.nn.linear import linear
from vla_jax.nn.norms import group_norm
from vla_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """The defaults are ResNet-18."""

    widths: tuple[int, ...] = (64, 128, 256, 512)
    """Of the stages; the first one's is the stem's, too."""
    depths: tuple[int, ...] = (2, 2, 2, 2)
    group_width: int = 16
    num_keypoints: int = 32
    out_width: int = 64
    image_size: int = 224

    def __post_init__(self):
        if len(self.widths) != len(self.depths):
            raise InputError(f"resnet: widths={self.widths}, depths={self.depths}: as many of each expected")
        if wrong := [width for width in self.widths if width % self.group_width]:
            raise InputError(f"resnet: widths {wrong} are no multiples of group_width={self.group_width}")

    def norm(self, width: int, rngs: nnx.Rngs) -> nnx.GroupNorm:
        return group_norm(width, width // self.group_width, epsilon=1e-5, rngs=rngs)

    def build(self, rngs: nnx.Rngs, *, condition_width: int | None = None) -> "KeypointEncoder":
        return KeypointEncoder(self, condition_width, rngs=rngs)


class BasicBlock(nnx.Module):
    def __init__(self, in_width: int, width: int, stride: int, config: ResNetConfig, *, rngs: nnx.Rngs):
        self.first = padded_convolution(in_width, width, 3, stride=stride, use_bias=False, rngs=rngs)
        self.first_norm = config.norm(width, rngs)
        self.second = padded_convolution(width, width, 3, use_bias=False, rngs=rngs)
        self.second_norm = config.norm(width, rngs)
        changes = stride > 1 or in_width != width
        shortcut = padded_convolution(in_width, width, 1, stride=stride, use_bias=False, rngs=rngs) if changes else None
        self.shortcut = shortcut
        self.shortcut_norm = config.norm(width, rngs) if changes else None

    def __call__(self, x: Float[Array, "b r c d"]) -> Float[Array, "b r2 c2 d2"]:
        found = jax.nn.relu(self.first_norm(self.first(x)))
        found = self.second_norm(self.second(found))
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut(x))
        return jax.nn.relu(found + x)


class KeypointEncoder(nnx.Module):
    def __init__(self, config: ResNetConfig, condition_width: int | None, *, rngs: nnx.Rngs):
        widths = config.widths
        self.stem = padded_convolution(3, widths[0], 7, stride=2, use_bias=False, rngs=rngs)
        self.stem_norm = config.norm(widths[0], rngs)
        stages = []
        for number, (before, width) in enumerate(itertools.pairwise((widths[0], *widths))):
            stride = 1 if number == 0 else 2
            blocks = [BasicBlock(before, width, stride, config, rngs=rngs)]
            blocks += [BasicBlock(width, width, 1, config, rngs=rngs) for _ in range(config.depths[number] - 1)]
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        films = [] if condition_width is None else [Film(condition_width, width, rngs=rngs) for width in widths]
        self.films = nnx.List(films)
        self.keypoints = padded_convolution(widths[-1], config.num_keypoints, 1, rngs=rngs)
        self.out = linear(2 * config.num_keypoints, config.out_width, (None, "feature"), rngs=rngs)

    def __call__(
        self, images: UInt8[Array, "b y x 3"], condition: Float[Array, "b t"] | None = None
    ) -> Float[Array, "b e"]:
        pixels = (images.astype(jnp.float32) / 255.0 - jnp.array(IMAGENET_MEAN)) / jnp.array(IMAGENET_STD)
        x = jax.nn.relu(self.stem_norm(self.stem(pixels.astype(self.stem.kernel[...].dtype))))
        x = _pooled(x)
        for number, blocks in enumerate(self.stages):
            for block in blocks:
                x = block(x)
            if condition is not None:
                x = self.films[number](x, condition)
        found = spatial_softmax(self.keypoints(x))
        return self.out(found.reshape(len(found), -1).astype(x.dtype))


def _pooled(x: Float[Array, "b r c d"]) -> Float[Array, "b r2 c2 d"]:
    """The largest of 3 x 3, every second one."""
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)


def spatial_softmax(maps: Float[Array, "b r c k"]) -> Float[Array, "b k 2"]:
    """Each map's expected column and row, -1..1, were it log-probabilities; float32."""
    batch, rows, columns, count = maps.shape
    weights = jax.nn.softmax(maps.reshape(batch, -1, count).astype(jnp.float32), axis=1)
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    places = jnp.asarray(np.stack([x.ravel(), y.ravel()], axis=-1), jnp.float32)
    return jnp.einsum("bnk,np->bkp", weights, places)
