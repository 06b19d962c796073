"""Convolutions over maps whose channels are last, and the transposed kind that enlarges them.

Axes: b batch, r c rows and columns, y x inside a kernel, i in, o out.
"""

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
