"""Regression of an action chunk from one token a number: the read-outs of a step side by side, a residual MLP, L1.

Axes: b batch, h horizon, a action, d width of a token, c = a * d.
Source: OpenVLA-OFT (arXiv 2502.19645), section 4, and published `prismatic/models/action_heads.py`: norm, linear, ReLU,
two blocks x + ReLU(linear(norm(x))), norm, linear; hidden width 4096 of a language model of width 4096.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from vla_jax.actions.absolute_error import absolute_error
from vla_jax.nn.linear import linear
from vla_jax.nn.norms import layer_norm
from vla_jax.types import ActionSpace, Losses, PolicyContext


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidualRegressionConfig:
    hidden_width: int = 4096
    num_blocks: int = 2

    def build(self, width: int, action_space: ActionSpace, rngs: nnx.Rngs) -> "ResidualRegression":
        return ResidualRegression(self, width, action_space, rngs=rngs)


class Residual(nnx.Module):
    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm = layer_norm(width, epsilon=1e-5, rngs=rngs)
        self.linear = linear(width, width, ("embed", "mlp"), rngs=rngs)

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        return x + jax.nn.relu(self.linear(self.norm(x)))


class ResidualRegression(nnx.Module):
    """Reads `PolicyContext.tokens`: h * a of them, step by step."""

    def __init__(self, config: ResidualRegressionConfig, width: int, action_space: ActionSpace, *, rngs: nnx.Rngs):
        self.chunk = (action_space.horizon, action_space.action_width)
        self.in_norm = layer_norm(self.chunk[1] * width, epsilon=1e-5, rngs=rngs)
        self.into = linear(self.chunk[1] * width, config.hidden_width, ("embed", "mlp"), rngs=rngs)
        self.blocks = nnx.List([Residual(config.hidden_width, rngs=rngs) for _ in range(config.num_blocks)])
        self.out_norm = layer_norm(config.hidden_width, epsilon=1e-5, rngs=rngs)
        self.out = linear(config.hidden_width, self.chunk[1], ("embed", None), rngs=rngs)

    def loss(
        self,
        context: PolicyContext,
        action: Float[Array, "b 1 h a"],
        action_mask: Bool[Array, "b 1 h a"],
        *,
        key: Key[Array, ""] | None,
    ) -> Losses:
        return absolute_error(self.sample(context, key=key), action, action_mask)

    def sample(self, context: PolicyContext, *, key: Key[Array, ""] | None) -> Float[Array, "b 1 h a"]:
        assert context.tokens is not None, "ResidualRegression reads PolicyContext.tokens"
        x = context.tokens.reshape(len(context.tokens), 1, self.chunk[0], -1)
        x = jax.nn.relu(self.into(self.in_norm(x)))
        for block in self.blocks:
            x = block(x)
        return self.out(self.out_norm(x)).astype(jnp.float32)
