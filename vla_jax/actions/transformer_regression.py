"""Regression of a chunk from a sequence: learned queries read it through a transformer decoder; Huber loss.

Axes: b batch, w = 1 window step (the one that the sequence is of), n memory tokens, h horizon, a action, e width of the
memory, d width, k bins.
Source: DFA-VLA 4.2 ("2-layer Transformer decoder ... with tanh"), Eq. 11-12, and Eq. 14 (Huber, delta = 1). Sizes are
ours: the memory is projected to 1024, 8 heads, perceptrons four times as wide, one query a step of the chunk.
Eq. 11's "action vocabulary" is kept as an option: `bins` a dimension, whose expected centre is the action, so that
Huber has a gradient, and cross-entropy beside it with `bin_weight`. tanh keeps actions within -1..1: the action space
should be normalised to that (`quantile`, `bounds`).
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from vla_jax.nn.attention import AttentionConfig
from vla_jax.nn.decoder_block import DecoderBlockConfig
from vla_jax.nn.linear import linear
from vla_jax.nn.mlp import MlpConfig
from vla_jax.nn.norms import LayerNormConfig
from vla_jax.nn.similarity import masked_mean
from vla_jax.nn.stack import StackConfig
from vla_jax.types import ActionSpace, InputError, Losses, PolicyContext


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerRegressionConfig:
    width: int = 1024
    num_layers: int = 2
    num_heads: int = 8
    mlp_width: int = 4096
    reader: Literal["queries", "mean"] = "queries"
    """`mean`: no transformer; the mean of the memory goes through a perceptron of `mlp_width`."""
    bins: int | None = None
    """Of each dimension, evenly over -1..1; None: one number through tanh."""
    bin_weight: float = 0.0
    """Of the cross-entropy."""

    def __post_init__(self):
        if self.bins is not None and self.bins < 2:
            raise InputError(f"policy.head.bins={self.bins}: 2 or more expected, or none")
        if self.bin_weight and self.bins is None:
            raise InputError(f"policy.head.bin_weight={self.bin_weight}, but there are no bins")

    def build(self, memory_width: int, action_space: ActionSpace, rngs: nnx.Rngs) -> "TransformerRegression":
        return TransformerRegression(self, memory_width, action_space, rngs=rngs)


class TransformerRegression(nnx.Module):
    """Reads `PolicyContext.tokens` with `mask`."""

    def __init__(
        self, config: TransformerRegressionConfig, memory_width: int, action_space: ActionSpace, *, rngs: nnx.Rngs
    ):
        self.config = config
        self.horizon, self.action_width = action_space.horizon, action_space.action_width
        readers = {"queries": QueryReader, "mean": MeanReader}
        self.reader = readers[config.reader](config, memory_width, self.horizon, rngs=rngs)
        self.out = linear(config.width, self.action_width * (config.bins or 1), ("embed", None), rngs=rngs)

    def loss(
        self,
        context: PolicyContext,
        action: Float[Array, "b w h a"],
        action_mask: Bool[Array, "b w h a"],
        *,
        key: Key[Array, ""] | None,
    ) -> Losses:
        """Mean Huber loss over the valid targets."""
        logits = self._logits(context)
        weight = action_mask.sum().astype(jnp.float32)

        def mean(losses: Float[Array, "b w h a"]) -> Float[Array, ""]:
            return jnp.where(action_mask, losses, 0.0).sum() / jnp.maximum(weight, 1.0)

        action = jnp.where(action_mask, action, 0.0)
        terms = {"huber": mean(optax.huber_loss(self._actions(logits), action, delta=1.0))}
        total = terms["huber"]
        if self.config.bins is not None:
            place = (jnp.clip(action, -1, 1) + 1) / 2 * self.config.bins
            target = jnp.clip(place.astype(jnp.int32), 0, self.config.bins - 1)
            terms["bins"] = mean(optax.softmax_cross_entropy_with_integer_labels(logits, target))
            total = total + self.config.bin_weight * terms["bins"]
        return Losses(total=total, weight=weight, terms=terms)

    def sample(self, context: PolicyContext, *, key: Key[Array, ""] | None) -> Float[Array, "b w h a"]:
        return self._actions(self._logits(context))

    def _logits(self, context: PolicyContext) -> Float[Array, "b w h a k"]:
        assert context.tokens is not None, "TransformerRegression reads PolicyContext.tokens"
        assert context.mask is not None, "and their mask"
        x = self.out(self.reader(context.tokens, context.mask)).astype(jnp.float32)
        return x.reshape(len(x), 1, self.horizon, self.action_width, -1)

    def _actions(self, logits: Float[Array, "b w h a k"]) -> Float[Array, "b w h a"]:
        if self.config.bins is None:
            return jnp.tanh(logits[..., 0])
        centres = (2 * jnp.arange(self.config.bins) + 1) / self.config.bins - 1
        return jax.nn.softmax(logits, axis=-1) @ centres


class QueryReader(nnx.Module):
    def __init__(self, config: TransformerRegressionConfig, memory_width: int, horizon: int, *, rngs: nnx.Rngs):
        self.memory = linear(memory_width, config.width, ("embed", "feature"), rngs=rngs)
        initial = 0.02 * jax.random.normal(rngs.params(), (horizon, config.width), jnp.float32)
        self.queries = nnx.Param(initial, logical_axes=(None, "feature"))
        block = DecoderBlockConfig(
            attention=AttentionConfig(width=config.width, num_heads=config.num_heads, memory_width=config.width),
            mlp=MlpConfig(hidden_width=config.mlp_width),
        )
        self.stack = StackConfig(block=block, num_layers=config.num_layers).build(rngs)
        self.norm = LayerNormConfig().build(config.width, rngs)

    def __call__(self, tokens: Float[Array, "b n e"], mask: Bool[Array, "b n"]) -> Float[Array, "b h d"]:
        memory = self.memory(tokens)
        queries = jnp.broadcast_to(self.queries[...], (len(memory), *self.queries.shape)).astype(memory.dtype)
        return self.norm(self.stack(queries, memory, mask=mask[:, None]))


class MeanReader(nnx.Module):
    def __init__(self, config: TransformerRegressionConfig, memory_width: int, horizon: int, *, rngs: nnx.Rngs):
        self.horizon = horizon
        self.mlp = MlpConfig(hidden_width=config.mlp_width, out_width=horizon * config.width).build(memory_width, rngs)

    def __call__(self, tokens: Float[Array, "b n e"], mask: Bool[Array, "b n"]) -> Float[Array, "b h d"]:
        return self.mlp(masked_mean(tokens, mask)).reshape(len(tokens), self.horizon, -1)
