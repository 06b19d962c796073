"""A few convolutions that make tokens of a picture, in the place of patches (Octo's SmallStem16).

Axes: b batch, y x pixels, n tokens (row-major), d width.
Source: Octo (arXiv 2405.12213), published `vit_encoders.py`, after Xiao et al. 2021 (2106.14881): four convolutions of
3 with stride 2 and standardised kernels, each followed by group norm and ReLU, then one of 1. Pixels are in -1..1.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, UInt8

from vla_jax.nn.convolution import StandardizedConvolution, convolution
from vla_jax.nn.norms import group_norm
from vla_jax.types import InputError, PictureNormalization


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallStemConfig:
    widths: tuple[int, ...] = (32, 96, 192, 384)
    """Of the convolutions; each halves the picture."""
    out_width: int = 512
    num_groups: int = 32

    def __post_init__(self):
        if wrong := [width for width in self.widths if width % self.num_groups]:
            raise InputError(f"stem: widths {wrong} are no multiples of num_groups={self.num_groups}")

    @property
    def stride(self) -> int:
        """Pixels of a token's side."""
        return 2 ** len(self.widths)

    @property
    def normalization(self) -> PictureNormalization:
        return PictureNormalization((0.5,) * 3, (0.5,) * 3)

    def build(self, rngs: nnx.Rngs) -> "SmallStem":
        return SmallStem(self, rngs=rngs)


class SmallStem(nnx.Module):
    def __init__(self, config: SmallStemConfig, *, rngs: nnx.Rngs):
        self.config = config
        pairs = list(itertools.pairwise((3, *config.widths)))
        self.convolutions = nnx.List([StandardizedConvolution(i, o, 3, stride=2, rngs=rngs) for i, o in pairs])
        norms = [group_norm(width, config.num_groups, epsilon=1e-6, rngs=rngs) for width in config.widths]
        self.norms = nnx.List(norms)
        self.out = convolution(config.widths[-1], config.out_width, 1, rngs=rngs)

    def __call__(self, images: UInt8[Array, "b y x 3"]) -> Float[Array, "b n d"]:
        if images.shape[1] % self.config.stride or images.shape[2] % self.config.stride:
            size = f"{images.shape[1]} x {images.shape[2]}"
            raise InputError(f"pictures of {size} pixels; multiples of {self.config.stride} expected")
        x = (images.astype(jnp.float32) / 127.5 - 1.0).astype(self.out.kernel[...].dtype)
        for convolve, norm in zip(self.convolutions, self.norms, strict=True):
            x = jax.nn.relu(norm(convolve(x)))
        x = self.out(x)
        return x.reshape(len(x), -1, x.shape[-1])
