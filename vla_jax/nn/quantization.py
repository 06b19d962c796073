"""Linear layers in int8 for inference: weights with a scale an output channel, activations with a scale a token.

Axes: i in, o out; stacked layers have a leading `layers` axis.
Source: symmetric absmax quantisation by qwix 0.1.8, its functions alone: its interception of jax.lax calls works on
whole models and knows no paths of stacked blocks. Embeddings, norms and everything outside blocks stay as they are by
default. A quantised model does not train.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import qwix
from flax import nnx
from jaxtyping import Array, Float

from vla_jax.nn.replacement import replace_linears
from vla_jax.types import InputError

Mode = Literal["weight_only", "dynamic"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizationConfig:
    mode: Mode
    """`weight_only`: weights are widened as they are read, the product is the activations' own dtype. `dynamic`:
    activations are quantised, too, and the product runs in int8."""
    targets: tuple[str, ...] = (".*blocks/.*",)
    """Regular expressions; a linear layer whose whole module path matches one is quantised. By default those in
    stacked blocks: most of a transformer's weights, and neither its embeddings nor its heads."""

    def __post_init__(self):
        if not self.targets:
            raise InputError("quantization: targets is empty; name the linear layers to quantise")

    def apply(self, module: nnx.Module) -> None:
        """Quantises a built module in place. Raises InputError where a target matches nothing."""
        replace_linears(module, self.targets, lambda linear: Int8Linear(linear, self.mode), option="int8 targets")


class Int8Linear(nnx.Module):
    """Stands in for `linear`; the result has the dtype of the input."""

    def __init__(self, linear: nnx.Linear, mode: Mode):
        kernel = linear.kernel[...]
        # Every axis but `in` has scales of its own: each layer of a stack, each output channel.
        own = [axis for axis in range(kernel.ndim) if axis != kernel.ndim - 2]
        quantized = qwix.quantize(kernel.astype(jnp.float32), jnp.int8, channelwise_axes=own)
        in_axis, out_axis = linear.kernel.get_metadata().get("logical_axes") or (None, None)
        self.mode = mode
        self.kernel_int8 = nnx.Param(quantized.qvalue, logical_axes=(in_axis, out_axis))
        self.kernel_scale = nnx.Param(quantized.scale, logical_axes=(None, out_axis))
        self.bias = linear.bias

    def __call__(self, x: Float[Array, "*rest i"]) -> Float[Array, "*rest o"]:
        kernel = qwix.QArray(self.kernel_int8[...], self.kernel_scale[...])
        contracted = (((x.ndim - 1,), (0,)), ((), ()))
        if self.mode == "dynamic":
            tokens = qwix.quantize(x.astype(jnp.float32), jnp.int8, channelwise_axes=range(x.ndim - 1))
            y = qwix.dot_general(tokens, kernel, contracted).astype(x.dtype)
        else:
            y = qwix.dot_general(x, kernel.astype(x.dtype), contracted)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)
