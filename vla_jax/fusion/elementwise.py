"""Picture and text as one vector each, multiplied in a shared space (DFA-VLA's Model 1).

Axes: b batch, r c rows and columns of the grid, e width of the encoder, d width of the text, s shared width.
Source: DFA-VLA 4.2: ViT features through a CNN of three layers; "projects features to a shared space and combines them
element-wise". Sizes are ours: 3 x 3 kernels, GELU, strides 1, 2, 2, the mean over places.
"""

import dataclasses
from typing import Literal, NamedTuple

from flax import nnx
from jaxtyping import Array, Float

from vla_jax.nn.convolution import convolution
from vla_jax.nn.linear import linear
from vla_jax.nn.mlp import ACTIVATIONS

STRIDES = (1, 2, 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ElementwiseConfig:
    width: int = 512
    """Of the shared space, and of the CNN's maps."""
    operation: Literal["multiply", "add"] = "multiply"
    keep_map: bool = False
    """True: what is decoded from has the CNN's map beside the fused vector."""

    def build(self, visual_width: int, text_width: int, rngs: nnx.Rngs) -> "Elementwise":
        return Elementwise(self, visual_width, text_width, rngs=rngs)


class ElementwiseOutput(NamedTuple):
    fused: Float[Array, "b s"]
    map: Float[Array, "b n s"]
    """The CNN's, row by row."""


class Elementwise(nnx.Module):
    def __init__(self, config: ElementwiseConfig, visual_width: int, text_width: int, *, rngs: nnx.Rngs):
        self.config = config
        widths = (visual_width, *(config.width for _ in STRIDES))
        self.convolutions = nnx.List(
            [convolution(widths[i], widths[i + 1], 3, stride=stride, rngs=rngs) for i, stride in enumerate(STRIDES)]
        )
        self.visual = linear(config.width, config.width, ("embed", "feature"), rngs=rngs)
        self.text = linear(text_width, config.width, ("embed", "feature"), rngs=rngs)

    def __call__(self, grid: Float[Array, "b r c e"], text: Float[Array, "b d"]) -> ElementwiseOutput:
        for layer in self.convolutions:
            grid = ACTIVATIONS["gelu"](layer(grid))
        visual, words = self.visual(grid.mean(axis=(1, 2))), self.text(text)
        fused = visual * words if self.config.operation == "multiply" else visual + words
        return ElementwiseOutput(fused, grid.reshape(len(grid), -1, grid.shape[-1]))
