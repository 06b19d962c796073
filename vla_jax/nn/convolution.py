"""Convolutions over maps and sequences whose channels are last, and the transposed kinds that enlarge them.

Axes: b batch, r c rows and columns, n places of a sequence, y x inside a kernel, i in, o out.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

AXES = ("patch", "patch", "feature", "embed")


def convolution(
    in_width: int, out_width: int, size: int, *, stride: int = 1, use_bias: bool = True, rngs: nnx.Rngs
) -> nnx.Conv:
    """A float32 convolution with a square kernel; zeros stand around the map so that it shrinks by the stride alone."""
    return nnx.Conv(
        in_width,
        out_width,
        kernel_size=(size, size),
        strides=stride,
        padding="SAME",
        use_bias=use_bias,
        param_dtype=jnp.float32,
        kernel_metadata={"logical_axes": AXES},
        bias_metadata={"logical_axes": AXES[-1:]},
        rngs=rngs,
    )


class Enlargement(nnx.Module):
    """A transposed convolution whose stride is its kernel's size: each place becomes `size` x `size` of its own."""

    def __init__(self, in_width: int, out_width: int, size: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.lecun_normal(in_axis=-2, out_axis=-1)
        shape = (size, size, in_width, out_width)
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32), logical_axes=AXES)
        self.bias = nnx.Param(jnp.zeros(out_width), logical_axes=AXES[-1:])

    def __call__(self, x: Float[Array, "b r c i"]) -> Float[Array, "b ry cx o"]:
        kernel, (batch, rows, columns, _) = self.kernel[...], x.shape
        size = kernel.shape[0]
        enlarged = jnp.einsum("brci,yxio->brycxo", x, kernel) + self.bias[...]
        return enlarged.reshape(batch, rows * size, columns * size, -1)


def padded_convolution(
    in_width: int, out_width: int, size: int, *, stride: int = 1, use_bias: bool = True, axes: int = 2, rngs: nnx.Rngs
) -> nnx.Conv:
    """As `convolution`, with zeros as PyTorch places them, size // 2 on every side, and over sequences (`axes` 1)."""
    return nnx.Conv(
        in_width,
        out_width,
        kernel_size=(size,) * axes,
        strides=stride,
        padding=((size // 2, size // 2),) * axes,
        use_bias=use_bias,
        param_dtype=jnp.float32,
        kernel_metadata={"logical_axes": AXES[-2 - axes :]},
        bias_metadata={"logical_axes": AXES[-1:]},
        rngs=rngs,
    )


class StandardizedConvolution(nnx.Module):
    """A convolution whose kernel has mean 0 and deviation 1 for each channel out. Source: Qiao et al. 2019, as Octo."""

    def __init__(self, in_width: int, out_width: int, size: int, *, stride: int, rngs: nnx.Rngs):
        self.stride = stride
        init = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), (size, size, in_width, out_width)), logical_axes=AXES)
        self.bias = nnx.Param(jnp.zeros(out_width), logical_axes=AXES[-1:])

    def __call__(self, x: Float[Array, "b r c i"]) -> Float[Array, "b r2 c2 o"]:
        kernel = self.kernel[...].astype(jnp.float32)
        kernel = kernel - kernel.mean(axis=(0, 1, 2))
        kernel = (kernel / (kernel.std(axis=(0, 1, 2)) + 1e-5)).astype(x.dtype)
        side = kernel.shape[0] // 2
        strides, padding = (self.stride,) * 2, ((side, side),) * 2
        found = jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return found + self.bias[...].astype(x.dtype)


class Doubling(nnx.Module):
    """A transposed convolution of a sequence with a kernel of 4 and a stride of 2: twice as many places."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), (4, width, width)), logical_axes=AXES[1:])
        self.bias = nnx.Param(jnp.zeros(width), logical_axes=AXES[-1:])

    def __call__(self, x: Float[Array, "b n i"]) -> Float[Array, "b n2 i"]:
        kernel = self.kernel[...][::-1].astype(x.dtype)
        found = jax.lax.conv_general_dilated(
            x, kernel, (1,), ((2, 2),), lhs_dilation=(2,), dimension_numbers=("NWC", "WIO", "NWC")
        )
        return found + self.bias[...].astype(x.dtype)
