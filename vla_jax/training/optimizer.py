"""AdamW with warm-up, cosine decay and global-norm clipping, at rates that may differ from part to part.

Source of the defaults: EF-VLA Table 7; weight decay on matrices only, as the published code does.
"""

import dataclasses
import re
from typing import Literal

import optax

from vla_jax.parameters import matching
from vla_jax.types import InputError, Parameters

DECAYED = ("kernel", "lora_a", "lora_b")
"""The matrices of linear layers, and of adapters on them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RateFactor:
    """Parameters whose whole path matches `pattern` train at `factor` times the schedule's rate, decay included."""

    pattern: str
    factor: float

    def __post_init__(self):
        if not self.factor > 0:
            raise InputError(
                f"optimizer.rates: factor={self.factor} of {self.pattern!r}: a positive number expected; what is not "
                "to train is frozen by the policy, or left out of lora.trained"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    peak_rate: float = 3e-4
    warmup_steps: int = 2_000
    final_rate: float = 0.0
    """Reached at the run's last step."""
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    """On parameters whose name is one of `DECAYED`."""
    moment_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the first moment. The second stays float32: bfloat16 has 8 bits, and a step of 1 - beta2 = 0.001 is lost."""
    clip_norm: float | None = 1.0
    rates: tuple[RateFactor, ...] = ()
    """The first that matches a parameter counts; others train at the schedule's rate. Each must match something."""

    def schedule(self, num_steps: int) -> optax.Schedule:
        """Linear from 0 to `peak_rate`, then a half cosine to `final_rate` at `num_steps`."""
        warmup = min(self.warmup_steps, num_steps)
        return optax.warmup_cosine_decay_schedule(
            0.0, self.peak_rate, warmup, max(num_steps, warmup + 1), end_value=self.final_rate
        )

    def build(self, num_steps: int) -> optax.GradientTransformation:
        def is_decayed(parameters: Parameters) -> dict[str, bool]:
            return {path: path.rsplit("/", 1)[-1] in DECAYED for path in parameters}

        adamw = optax.adamw(
            self.schedule(num_steps),
            self.beta1,
            self.beta2,
            self.epsilon,
            weight_decay=self.weight_decay,
            mask=is_decayed,
            mu_dtype=self.moment_dtype,
        )
        chain = [] if self.clip_norm is None else [optax.clip_by_global_norm(self.clip_norm)]
        chain.append(adamw)
        if self.rates:
            chain.append(_scaled_by_path(self.rates))
        return optax.chain(*chain) if len(chain) > 1 else adamw


def _scaled_by_path(rates: tuple[RateFactor, ...]) -> optax.GradientTransformation:
    def init(parameters: Parameters) -> optax.EmptyState:
        try:
            matching(parameters, tuple(rate.pattern for rate in rates))
        except InputError as error:
            raise InputError(f"optimizer.rates: {error}") from error
        return optax.EmptyState()

    def update(updates: Parameters, state: optax.EmptyState, parameters: Parameters | None = None):
        factors = {path: _factor(path, rates) for path in updates}
        return {
            path: update if factors[path] == 1 else factors[path] * update for path, update in updates.items()
        }, state

    return optax.GradientTransformation(init, update)


def _factor(path: str, rates: tuple[RateFactor, ...]) -> float:
    return next((rate.factor for rate in rates if re.fullmatch(rate.pattern, path)), 1.0)
