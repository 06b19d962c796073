"""Parallel regression of an action chunk with an L1 loss.

Axes: b batch, w window, h horizon, a action, d query width.
Source: EF-VLA section 3.2 and its published code (mean absolute error; the paper does not state the loss).
"""

import dataclasses
import itertools

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from vla_jax.actions.absolute_error import absolute_error
from vla_jax.nn.linear import linear
from vla_jax.nn.mlp import ACTIVATIONS, Activation
from vla_jax.types import ActionSpace, Losses, PolicyContext


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegressionConfig:
    hidden_widths: tuple[int, ...] = ()
    """Hidden layers of the head; none: one linear layer, as the paper's runs had."""
    activation: Activation = "gelu_tanh"
    """After each hidden layer."""

    def build(self, width: int, action_space: ActionSpace, rngs: nnx.Rngs) -> "Regression":
        return Regression(self, width, action_space, rngs=rngs)


class Regression(nnx.Module):
    """Reads `PolicyContext.queries`: one token a window step gives that step's whole chunk."""

    def __init__(self, config: RegressionConfig, width: int, action_space: ActionSpace, *, rngs: nnx.Rngs):
        self.activation = config.activation
        self.chunk = (action_space.horizon, action_space.action_width)
        widths = (width, *config.hidden_widths)
        self.hidden = nnx.List([linear(i, o, ("embed", "mlp"), rngs=rngs) for i, o in itertools.pairwise(widths)])
        self.out = linear(widths[-1], self.chunk[0] * self.chunk[1], ("embed", None), rngs=rngs)

    def loss(
        self,
        context: PolicyContext,
        action: Float[Array, "b w h a"],
        action_mask: Bool[Array, "b w h a"],
        *,
        key: Key[Array, ""] | None,
    ) -> Losses:
        return absolute_error(self.sample(context, key=key), action, action_mask)

    def sample(self, context: PolicyContext, *, key: Key[Array, ""] | None) -> Float[Array, "b w h a"]:
        assert context.queries is not None, "Regression reads PolicyContext.queries"
        x = context.queries
        for layer in self.hidden:
            x = ACTIVATIONS[self.activation](layer(x))
        x = self.out(x)
        return x.reshape(*x.shape[:-1], *self.chunk).astype(jnp.float32)
