"""Regression of a chunk from tokens that stand for its entries: a two-layer perceptron on each, with an L1 loss.

Axes: b batch, w window, h horizon, a action, n tokens, d token width.
Source: DeepVision-VLA section 3.3.1 (QwenVLA-OFT: "two-layer MLP", l1); the activation is not stated, ReLU as in the
heads of OpenVLA-OFT and StarVLA. One token a step (n = h), or one a step and dimension (n = h a) as OpenVLA-OFT has it.

Predicts at the last window step alone.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from vla_jax.actions.absolute_error import absolute_error
from vla_jax.nn.linear import linear
from vla_jax.types import ActionSpace, InputError, Losses, PolicyContext


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenRegressionConfig:
    token: Literal["step", "dimension"] = "step"
    """What a token stands for."""
    hidden_width: int | None = None
    """None: as wide as a token."""

    def __post_init__(self):
        if self.hidden_width is not None and self.hidden_width < 1:
            raise InputError(f"policy.head.hidden_width={self.hidden_width}: 1 or more expected")

    def num_tokens(self, action_space: ActionSpace) -> int:
        return action_space.horizon * (1 if self.token == "step" else action_space.action_width)

    def build(self, width: int, action_space: ActionSpace, rngs: nnx.Rngs) -> "TokenRegression":
        return TokenRegression(self, width, action_space, rngs=rngs)


class TokenRegression(nnx.Module):
    """Reads the last tokens of `PolicyContext.tokens`, in the order of the chunk."""

    def __init__(self, config: TokenRegressionConfig, width: int, action_space: ActionSpace, *, rngs: nnx.Rngs):
        self.chunk = (action_space.horizon, action_space.action_width)
        self.num_tokens = config.num_tokens(action_space)
        hidden = config.hidden_width or width
        self.hidden = linear(width, hidden, ("embed", "mlp"), rngs=rngs)
        self.out = linear(hidden, self.chunk[0] * self.chunk[1] // self.num_tokens, ("mlp", None), rngs=rngs)

    def loss(
        self,
        context: PolicyContext,
        action: Float[Array, "b w h a"],
        action_mask: Bool[Array, "b w h a"],
        *,
        key: Key[Array, ""] | None,
    ) -> Losses:
        """Of the last window step."""
        return absolute_error(self.sample(context, key=key), action[:, -1:], action_mask[:, -1:])

    def sample(self, context: PolicyContext, *, key: Key[Array, ""] | None) -> Float[Array, "b 1 h a"]:
        assert context.tokens is not None, "TokenRegression reads PolicyContext.tokens"
        tokens = context.tokens[:, -self.num_tokens :]
        chunk = self.out(jax.nn.relu(self.hidden(tokens)))
        return chunk.reshape(len(chunk), 1, *self.chunk).astype(jnp.float32)
