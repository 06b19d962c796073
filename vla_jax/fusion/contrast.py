"""InfoNCE between an instruction and what its picture shows (DFA-VLA).

Axes: b batch, k boxes, d width.
Source: DFA-VLA Eq. 15, -log exp(sim(t, v+) / tau) / sum_i exp(sim(t, v_i) / tau): t is Mean(H_text), v_i the k local
features, sim the cosine. The paper leaves v+ undefined (`positive`):
    target_box   the box that the task is about, where the data name it; other samples have no loss
    self         the box most like t, as it stands: t is drawn to it
    in_batch     no boxes: v+ is the mean of the sample's own fused tokens F, the others' are the negatives
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from vla_jax.nn.similarity import cosines, unit
from vla_jax.types import InputError

Positive = Literal["target_box", "self", "in_batch"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContrastConfig:
    positive: Positive = "target_box"
    temperature: float = 0.07
    learn_temperature: bool = False

    def __post_init__(self):
        if not self.temperature > 0:
            raise InputError(f"policy.contrast.temperature={self.temperature}: a positive number expected")

    def build(self, rngs: nnx.Rngs) -> "Contrast":
        return Contrast(self)


class Contrast(nnx.Module):
    def __init__(self, config: ContrastConfig):
        self.config = config
        initial = jnp.full((), math.log(config.temperature), jnp.float32)
        self.log_temperature = nnx.Param(initial) if config.learn_temperature else None

    def __call__(
        self,
        text: Float[Array, "b d"],
        local: Float[Array, "b k d"],
        local_mask: Bool[Array, "b k"],
        target: Int[Array, "b"] | None,
        pooled: Float[Array, "b d"],
        valid: Bool[Array, "b"],
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Its sum over the samples that have one, and their number.

        Args: target: number of the box, or -1; None: of none is it known. pooled: the mean of the fused tokens.
            valid: the samples that have words and a picture.
        """
        if self.config.positive == "in_batch":
            logits = (unit(text) @ unit(pooled).T) / self._temperature()
            return _cross_entropy(logits, jnp.broadcast_to(valid, logits.shape), jnp.arange(len(text)), valid)
        if not local.shape[1]:
            raise InputError(f"policy.contrast.positive={self.config.positive!r} needs boxes; choose in_batch")
        cosine = cosines(text[:, None], local)[:, 0]
        if self.config.positive == "self":
            target = jnp.argmax(jnp.where(local_mask, cosine, -jnp.inf), axis=1)
            known = local_mask.any(axis=1)
        elif target is None:
            return jnp.float32(0), jnp.float32(0)
        else:
            known, target = target >= 0, jnp.maximum(target, 0)
            known &= jnp.take_along_axis(local_mask, target[:, None], axis=1)[:, 0]
        return _cross_entropy(cosine / self._temperature(), local_mask, target, known & valid)

    def _temperature(self) -> Float[Array, ""]:
        if self.log_temperature is None:
            return jnp.float32(self.config.temperature)
        return jnp.exp(self.log_temperature[...].astype(jnp.float32))


def _cross_entropy(
    logits: Float[Array, "b k"], mask: Bool[Array, "b k"], target: Int[Array, "b"], valid: Bool[Array, "b"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    logs = jax.nn.log_softmax(jnp.where(mask, logits, jnp.finfo(jnp.float32).min), axis=-1)
    losses = -jnp.take_along_axis(logs, target[:, None], axis=1)[:, 0]
    return jnp.where(valid, losses, 0).sum(), valid.sum().astype(jnp.float32)
