"""The perceptrons of a transformer block: two layers, or three with a gate. Axes: d width, o width of the output."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import jax
from flax import nnx
from jaxtyping import Array, Float

from vla_jax.nn.linear import linear
from vla_jax.types import InputError

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"]


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x * sigmoid(1.702 x), which OpenAI's CLIP weights were trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}
ACTIVATION_NAMES = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
}
"""Ours -> transformers'."""


def activation_of(settings: Mapping[str, Any], section: str = "") -> Activation:
    """Of `hidden_act`. Args: section: of config.json that `settings` are, e.g. `vision_config.`."""
    names, found = {theirs: ours for ours, theirs in ACTIVATION_NAMES.items()}, settings["hidden_act"]
    if found not in names:
        raise InputError(f"config.json: {section}hidden_act is {found!r}, expected one of {sorted(names)}")
    return cast(Activation, names[found])


@dataclasses.dataclass(frozen=True, kw_only=True)
class MlpConfig:
    hidden_width: int
    activation: Activation = "gelu"
    out_width: int | None = None
    """None: as wide as the input."""

    def build(self, width: int, rngs: nnx.Rngs) -> "Mlp":
        return Mlp(self, width, rngs=rngs)


class Mlp(nnx.Module):
    def __init__(self, config: MlpConfig, width: int, *, rngs: nnx.Rngs):
        self.activation = config.activation
        self.up = linear(width, config.hidden_width, ("embed", "mlp"), rngs=rngs)
        self.down = linear(config.hidden_width, config.out_width or width, ("mlp", "embed"), rngs=rngs)

    def __call__(self, x: Float[Array, "*rest d"]) -> Float[Array, "*rest o"]:
        return self.down(ACTIVATIONS[self.activation](self.up(x)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatedMlpConfig:
    hidden_width: int
    activation: Activation = "silu"
    """Of the gate: `silu` is SwiGLU, `gelu_tanh` Gemma's GeGLU."""
    use_bias: bool = False

    def build(self, width: int, rngs: nnx.Rngs) -> "GatedMlp":
        return GatedMlp(self, width, rngs=rngs)


class GatedMlp(nnx.Module):
    """down(activation(gate(x)) * up(x)). Source: Shazeer 2020."""

    def __init__(self, config: GatedMlpConfig, width: int, *, rngs: nnx.Rngs):
        self.activation = config.activation
        layer = functools.partial(linear, use_bias=config.use_bias, rngs=rngs)
        self.gate = layer(width, config.hidden_width, ("embed", "mlp"))
        self.up = layer(width, config.hidden_width, ("embed", "mlp"))
        self.down = layer(config.hidden_width, width, ("mlp", "embed"))

    def __call__(self, x: Float[Array, "*rest d"]) -> Float[Array, "*rest d"]:
        return self.down(ACTIVATIONS[self.activation](self.gate(x)) * self.up(x))
