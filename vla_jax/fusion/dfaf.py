"""Dynamic fine-grained alignment and fusion: words choose among visual tokens and are mixed into them (DFA-VLA).

Axes: b batch, t text tokens, n visual tokens, k chosen ones, d width.
Source: DFA-VLA Eq. 8 (gate), 9 (choice), 10 (mixture), 16 (mask loss).
    s_n = max over valid words of cos(H_text, V_n)      p = softmax(s / tau) over the valid tokens
    V_sparse = the K tokens of largest s, in their own order
    F = alpha V_sparse + (1 - alpha) Mean(H_text)       alpha = sigmoid(W Mean(H_text) + b)
    L_mask = -mean over the chosen of log p: log n where p is even, log K at least
Resolutions, for the paper leaves them open: Eq. 9's matrix [t, n] is reduced over words by its maximum (`text_reduce`);
W gives one number (`gate.kind`); alpha_i of Eq. 16 is p, not the gate (`mask_target`). The choice itself has no
gradient: words are taught by the gate and by L_mask.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from vla_jax.nn.linear import linear
from vla_jax.nn.mlp import MlpConfig
from vla_jax.nn.similarity import cosines, masked_mean
from vla_jax.types import InputError

GateKind = Literal["scalar", "vector", "mlp", "constant", "sum"]
TextReduce = Literal["max", "mean", "attention"]
Selection = Literal["tokens", "in_place", "per_token"]
MaskTarget = Literal["selected", "sigmoid", "target_box"]
NOTHING = -2.0
"""Below every cosine: the score of a token where there are no words."""
LOWEST = -1e9
"""The score of what is masked; finite when it is divided by a temperature."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateConfig:
    kind: GateKind = "scalar"
    """What alpha is: one number (d + 1 parameters), one a channel (d^2 + d), the same by way of `hidden_width`, or the
    constant `value`; `sum`: F = V_sparse + Mean(H_text), with no alpha."""
    hidden_width: int = 1024
    value: float = 0.5
    """Of `constant`: 0.5 is a plain average, the paper's model without a gate."""

    def build(self, width: int, rngs: nnx.Rngs) -> "Gate":
        return Gate(self, width, rngs=rngs)


class Gate(nnx.Module):
    """Eq. 8."""

    def __init__(self, config: GateConfig, width: int, *, rngs: nnx.Rngs):
        self.config = config
        hidden = MlpConfig(hidden_width=config.hidden_width)
        builders: dict[str, Callable[[], nnx.Module]] = {
            "scalar": lambda: linear(width, 1, ("embed", None), rngs=rngs),
            "vector": lambda: linear(width, width, ("embed", "feature"), rngs=rngs),
            "mlp": lambda: hidden.build(width, rngs),
        }
        self.layer = builders[config.kind]() if config.kind in builders else None

    def __call__(self, text_mean: Float[Array, "b d"]) -> tuple[Float[Array, "b g"], Float[Array, "b g"]]:
        """What tokens and words are multiplied with: alpha and 1 - alpha; [b, 1] or [b, d]."""
        if self.layer is not None:
            alpha = jax.nn.sigmoid(self.layer(text_mean).astype(jnp.float32)).astype(text_mean.dtype)
            return alpha, 1 - alpha
        one = jnp.ones_like(text_mean[:, :1])
        return (one, one) if self.config.kind == "sum" else (self.config.value * one, (1 - self.config.value) * one)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DfafConfig:
    num_selected: int = 5
    """K."""
    text_reduce: TextReduce = "max"
    """Over words: `attention` weighs them by a learned query."""
    selection: Selection = "tokens"
    """`tokens`: the K chosen ones go on. `in_place`: all keep their places, the others are masked, which saves nothing.
    `per_token`: each word has K of its own, whose weighted sum goes on: as many tokens as words."""
    temperature: float = 0.07
    """tau of p."""
    gate: GateConfig = GateConfig()
    mask_target: MaskTarget = "selected"
    """What L_mask raises: p of the chosen tokens; `sigmoid`: sigmoid(s / tau) of theirs; `target_box`: the mass of p in
    the box that the task is about, where the data name it."""

    def __post_init__(self):
        if self.num_selected < 1 or not self.temperature > 0:
            raise InputError(
                f"policy.dfaf: num_selected={self.num_selected}, temperature={self.temperature}: 1 or more tokens and "
                "a positive temperature expected"
            )

    def build(self, width: int, rngs: nnx.Rngs) -> "Dfaf":
        return Dfaf(self, width, rngs=rngs)


class Fused(NamedTuple):
    """What goes on in the place of the visual tokens."""

    tokens: Float[Array, "b k d"]
    """F."""
    mask: Bool[Array, "b k"]
    places: Int[Array, "b k"] | None
    """Which of the visual tokens each was; None: `per_token`, each belongs to a word."""
    scores: Float[Array, "b n"]
    """s; the lowest number where a token is masked."""
    probabilities: Float[Array, "b n"]
    """p; zero where a token is masked."""
    chosen: Int[Array, "b k"]
    """The K tokens of largest s, in order."""


class Dfaf(nnx.Module):
    def __init__(self, config: DfafConfig, width: int, *, rngs: nnx.Rngs):
        self.config = config
        self.gate = config.gate.build(width, rngs)
        by_query = config.text_reduce == "attention"
        self.text_query = nnx.Param(jnp.zeros(width, jnp.float32), logical_axes=("embed",)) if by_query else None

    def __call__(
        self,
        text: Float[Array, "b t d"],
        text_mask: Bool[Array, "b t"],
        visual: Float[Array, "b n d"],
        visual_mask: Bool[Array, "b n"],
    ) -> Fused:
        """Args: text: H_text. visual: what is chosen from, V_proj by Eq. 9."""
        count = min(self.config.num_selected, visual.shape[1])
        similarity = cosines(text, visual)
        scores = self._scores(similarity, text, text_mask, visual_mask)
        probabilities = jax.nn.softmax(scores / self.config.temperature, axis=-1) * visual_mask
        chosen = jnp.sort(jax.lax.top_k(scores, count)[1], axis=-1)
        places: Array | None = chosen
        if self.config.selection == "in_place":
            sparse, places = visual, jnp.broadcast_to(jnp.arange(visual.shape[1]), visual.shape[:2])
            mask = visual_mask & jnp.any(chosen[:, :, None] == places[:, None], axis=1)
        elif self.config.selection == "per_token":
            sparse, places = self._by_word(similarity, visual, visual_mask, count), None
            mask = text_mask & visual_mask.any(axis=1, keepdims=True)
        else:
            sparse = jnp.take_along_axis(visual, chosen[..., None], axis=1)
            mask = jnp.take_along_axis(visual_mask, chosen, axis=1)
        return Fused(self.mix(text, text_mask, sparse), mask, places, scores, probabilities, chosen)

    def mix(
        self, text: Float[Array, "b t d"], text_mask: Bool[Array, "b t"], visual: Float[Array, "b k d"]
    ) -> Float[Array, "b k d"]:
        """Eq. 10."""
        mean = masked_mean(text, text_mask)
        of_visual, of_text = self.gate(mean)
        return of_visual[:, None] * visual + (of_text * mean)[:, None]

    def mask_loss(
        self, fused: Fused, visual_mask: Bool[Array, "b n"], inside: Bool[Array, "b n"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Eq. 16: its sum over the samples that have one, and their number.

        Args: inside: the tokens that lie in the box of the task; none where it is not known.
        """
        if self.config.mask_target == "target_box":
            known = (inside & visual_mask).any(axis=1)
            mass = jnp.sum(jnp.where(inside, fused.probabilities, 0), axis=1)
            losses = -jnp.log(jnp.where(known, jnp.maximum(mass, 1e-12), 1))
            return losses.sum(), known.sum().astype(jnp.float32)
        scaled = fused.scores / self.config.temperature
        by_token = jax.nn.log_softmax if self.config.mask_target == "selected" else jax.nn.log_sigmoid
        mask = jnp.take_along_axis(visual_mask, fused.chosen, axis=1)
        logs = jnp.take_along_axis(by_token(scaled), fused.chosen, axis=1)
        count = mask.sum(axis=1)
        losses = -jnp.sum(jnp.where(mask, logs, 0), axis=1) / jnp.maximum(count, 1)
        return losses.sum(), (count > 0).sum().astype(jnp.float32)

    def _scores(
        self,
        similarity: Float[Array, "b t n"],
        text: Float[Array, "b t d"],
        text_mask: Bool[Array, "b t"],
        visual_mask: Bool[Array, "b n"],
    ) -> Float[Array, "b n"]:
        if self.config.text_reduce == "max":
            scores = jnp.max(similarity, axis=1, where=text_mask[..., None], initial=NOTHING)
        else:
            weights = self._word_weights(text, text_mask)
            scores = jnp.where(text_mask.any(axis=1)[:, None], jnp.einsum("bt,btn->bn", weights, similarity), NOTHING)
        return jnp.where(visual_mask, scores, LOWEST)

    def _word_weights(self, text: Float[Array, "b t d"], text_mask: Bool[Array, "b t"]) -> Float[Array, "b t"]:
        """Even, or by the learned query; zero for padding."""
        if self.text_query is None:
            return text_mask / jnp.maximum(text_mask.sum(axis=1, keepdims=True), 1)
        logits = (text.astype(jnp.float32) @ self.text_query[...].astype(jnp.float32)) * text.shape[-1] ** -0.5
        return jax.nn.softmax(jnp.where(text_mask, logits, LOWEST), axis=-1) * text_mask

    def _by_word(
        self,
        similarity: Float[Array, "b t n"],
        visual: Float[Array, "b n d"],
        visual_mask: Bool[Array, "b n"],
        count: int,
    ) -> Float[Array, "b t d"]:
        """Of each word the sum of its K tokens, weighted by softmax(cos / tau) over them."""
        masked = jnp.where(visual_mask[:, None], similarity, LOWEST)
        least = jax.lax.stop_gradient(jax.lax.top_k(masked, count)[0][..., -1:])
        kept = (masked >= least) & visual_mask[:, None]
        logits = jnp.where(kept, masked / self.config.temperature, LOWEST)
        weights = (jax.nn.softmax(logits, axis=-1) * kept).astype(visual.dtype)
        return jnp.einsum("btn,bnd->btd", weights, visual)
