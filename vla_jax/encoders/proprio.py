"""The embodiment feature f_e of EF-VLA: a perceptron over proprio. Axes: b batch, w window, p proprio, d width.

Source: EF-VLA section 3.2: one linear layer in its published JAX code, two hidden ones of 256 in the PyTorch code.
"""

import dataclasses
import itertools

import jax
from flax import nnx
from jaxtyping import Array, Float

from vla_jax.nn.linear import linear


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProprioEncoderConfig:
    out_width: int = 64
    hidden_widths: tuple[int, ...] = ()
    """Of layers with a ReLU each."""

    def build(self, in_width: int, rngs: nnx.Rngs) -> "ProprioEncoder":
        return ProprioEncoder(self, in_width, rngs=rngs)


class ProprioEncoder(nnx.Module):
    def __init__(self, config: ProprioEncoderConfig, in_width: int, *, rngs: nnx.Rngs):
        widths = (in_width, *config.hidden_widths, config.out_width)
        axes = (None, "feature")
        self.layers = nnx.List([linear(i, o, axes, rngs=rngs) for i, o in itertools.pairwise(widths)])

    def __call__(self, proprio: Float[Array, "b w p"]) -> Float[Array, "b w d"]:
        for layer in self.layers[:-1]:
            proprio = jax.nn.relu(layer(proprio))
        return self.layers[-1](proprio)
