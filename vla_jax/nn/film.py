"""FiLM: features scaled and shifted by a linear function of a condition, x (1 + gamma) + beta.

Axes: b batch, c width of the condition, d features.
Source: Perez et al. 2018 (arXiv 1709.07871), section 7.2 for the 1. Differs: it starts as nothing (gamma = beta = 0),
so that a pretrained encoder begins as it was; OpenVLA-OFT's published code starts from small random values.
"""

import jax
from flax import nnx
from jaxtyping import Array, Float

from vla_jax.nn.linear import linear
from vla_jax.nn.rotary import Rotation
from vla_jax.nn.stack import WHOLE, Span, Stack


class Film(nnx.Module):
    def __init__(self, condition_width: int, width: int, *, rngs: nnx.Rngs):
        axes, zeros = ("embed", "feature"), nnx.initializers.zeros_init()
        self.scale = linear(condition_width, width, axes, kernel_init=zeros, rngs=rngs)
        self.shift = linear(condition_width, width, axes, kernel_init=zeros, rngs=rngs)

    def __call__(self, x: Float[Array, "b *n d"], condition: Float[Array, "b c"]) -> Float[Array, "b *n d"]:
        shape = (len(x), *(1,) * (x.ndim - 2), x.shape[-1])
        scale, shift = (layer(condition).reshape(shape) for layer in (self.scale, self.shift))
        return x * (1 + scale) + shift


def stacked_films(num_layers: int, condition_width: int, width: int, rngs: nnx.Rngs) -> Film:
    """One a block, stacked on a leading `layers` axis as `nn.stack` has its blocks."""
    keys = jax.random.split(rngs.params(), num_layers)
    return jax.vmap(lambda key: Film(condition_width, width, rngs=nnx.Rngs(key)))(keys)


def modulated(
    stack: Stack,
    films: Film,
    x: Float[Array, "b n d"],
    condition: Float[Array, "b c"],
    *,
    rotation: Rotation | None = None,
    span: Span = WHOLE,
) -> Float[Array, "b n d"]:
    """Runs the blocks of `span`, each with FiLM between its attention and its perceptron (OpenVLA-OFT).

    Args: films: stacked, one for each of these blocks.
    """

    def body(x: Array, layer: tuple) -> tuple[Array, None]:
        number, film = layer
        block = stack.at(number)
        attended = block.attention.combine(block.projections(x, rotation=rotation))
        return block.finish(x, attended, between=lambda x: film(x, condition)), None

    return jax.lax.scan(stack.checkpointed(body), x, (stack.numbers(stack.bounds(span)), films))[0]
