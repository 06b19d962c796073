"""AdamW with warm-up, cosine decay and global-norm clipping.

Source of the defaults: EF-VLA Table 7; weight decay on matrices only, as the published code does.
"""

import dataclasses

import optax

from vla_jax.types import Parameters

DECAYED = ("kernel", "lora_a", "lora_b")
"""The matrices of linear layers, and of adapters on them."""


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
    clip_norm: float | None = 1.0

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
        )
        return adamw if self.clip_norm is None else optax.chain(optax.clip_by_global_norm(self.clip_norm), adamw)
