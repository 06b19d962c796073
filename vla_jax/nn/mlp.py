"""The two-layer perceptron of a transformer block. Axes: d width."""

import functools
from collections.abc import Callable
from typing import Literal

import jax
from flax import nnx
from jaxtyping import Array, Float

from vla_jax.nn.linear import linear

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu"]


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x * sigmoid(1.702 x), which OpenAI's CLIP weights were trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
}


class Mlp(nnx.Module):
    def __init__(self, width: int, hidden_width: int, activation: Activation, *, rngs: nnx.Rngs):
        self.activation = activation
        self.up = linear(width, hidden_width, ("embed", "mlp"), rngs=rngs)
        self.down = linear(hidden_width, width, ("mlp", "embed"), rngs=rngs)

    def __call__(self, x: Float[Array, "*rest d"]) -> Float[Array, "*rest d"]:
        return self.down(ACTIVATIONS[self.activation](self.up(x)))
