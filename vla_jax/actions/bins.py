"""Actions as tokens of a language model: cross-entropy in teacher forcing, and back from the tokens that it writes.

Axes: b batch, w window (1), h horizon, a action, q targets = h * a and the end, t = h * a, d width, v vocabulary.
Source: OpenVLA (arXiv 2406.09246), section 3.2, and published `prismatic/vla/datasets/datasets.py`: one token a number,
step by step; the loss is on them and on the token that ends the text, on nothing else.
Differs: targets that are masked take no part in the loss, and the tokens in front of which they stand read the middle
of the range (0) in their place; the end counts where no target of the row is masked.

No parameters of its own: the language model's table and head are. Its inputs hold the targets, which a `PolicyContext`
does not have, and so this is no `ActionDecoder`: the policy puts prompt and tokens together (`policies/openvla.py`).
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vla_jax.nn.cross_entropy import mean_cross_entropy
from vla_jax.types import ActionSpace, Losses


@runtime_checkable
class Codec(Protocol):
    """Numbers in -1..1 to ids of the vocabulary, and back (`language.action_tokens.ActionTokens`)."""

    def encode(self, action: Float[Array, "*axes"]) -> Int[Array, "*axes"]: ...

    def decode(self, ids: Int[Array, "*axes"]) -> Float[Array, "*axes"]: ...


class Targets(NamedTuple):
    ids: Int[Array, "b q"]
    valid: Bool[Array, "b q"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BinsConfig:
    end_id: int | None = 2
    """The token behind the actions (Llama's `</s>`), which is learned, too; None: there is none."""
    chunk_length: int | None = None
    """As of `nn.cross_entropy`. An action has few tokens: their logits are small."""

    def build(self, codec: Codec, action_space: ActionSpace) -> "Bins":
        return Bins(self, codec, (action_space.horizon, action_space.action_width))


@dataclasses.dataclass(frozen=True)
class Bins:
    config: BinsConfig
    codec: Codec
    chunk: tuple[int, int]
    """Horizon, action width."""

    @property
    def num_tokens(self) -> int:
        """Without the end."""
        return self.chunk[0] * self.chunk[1]

    def targets(self, action: Float[Array, "b 1 h a"], action_mask: Bool[Array, "b 1 h a"]) -> Targets:
        valid = action_mask.reshape(len(action), -1)
        ids = self.codec.encode(jnp.where(valid, action.reshape(valid.shape), 0.0))
        if self.config.end_id is None:
            return Targets(ids, valid)
        end = jnp.full((len(ids), 1), self.config.end_id, ids.dtype)
        all_valid = valid.all(axis=1, keepdims=True)
        return Targets(jnp.concatenate([ids, end], axis=1), jnp.concatenate([valid, all_valid], axis=1))

    def loss(
        self, hidden: Float[Array, "b q d"], targets: Targets, head: Callable[[Array], Float[Array, "*b v"]]
    ) -> Losses:
        """Mean over the valid targets. Args: hidden: what predicts each target. head: to logits."""
        ids, valid = targets
        total = mean_cross_entropy(hidden, ids, valid, head=head, chunk_length=self.config.chunk_length)
        return Losses(total=total, weight=valid.sum().astype(jnp.float32), terms={"cross_entropy": total})

    def actions(self, ids: Int[Array, "b t"]) -> Float[Array, "b 1 h a"]:
        """Args: ids: as written; below 0 (`generation.NO_TOKEN`) there is no action, and it is NaN."""
        action = jnp.where(ids < 0, jnp.nan, self.codec.decode(ids))
        return action.reshape(len(ids), 1, *self.chunk)
