"""Steps that are left out: a loss or gradient that is not finite, or a loss far above what it has been.

A step that is left out changes neither parameters nor optimizer nor moving average; its batch is spent. The judgement
rests on global values inside the step, so all hosts come to the same one.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vla_jax.training.state import Watch
from vla_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class SkipConfig:
    spike_deviations: float | None = 8.0
    """A loss so many standard deviations above its running mean is left out; None: only what is not finite."""
    memory: int = 100
    """Steps over which mean and deviation run. Before as many are kept no spike is seen: early losses fall steeply."""
    most_in_a_row: int = 10
    """As many left out one after another stop the run: the data or the rate are wrong, not a step."""

    def __post_init__(self):
        if (
            self.memory < 2
            or self.most_in_a_row < 1
            or not (self.spike_deviations is None or self.spike_deviations > 0)
        ):
            raise InputError(
                f"skip {self}: memory of 2 or more, most_in_a_row of 1 or more, deviations above 0 expected"
            )


def judge(
    config: SkipConfig | None, watch: Watch, loss: Float[Array, ""], grad_norm: Float[Array, ""]
) -> tuple[Bool[Array, ""], Bool[Array, ""], Watch]:
    """Whether the step is left out, whether the run has to stop for it, and what is remembered.

    Without a configuration nothing is left out, and anything that is not finite stops the run.
    """
    is_finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    if config is None:
        return jnp.zeros((), bool), ~is_finite, watch
    is_spike = jnp.zeros((), bool)
    if config.spike_deviations is not None:
        limit = watch.mean + config.spike_deviations * jnp.sqrt(watch.variance)
        is_spike = (watch.num_kept >= config.memory) & (loss > limit)
    skips = ~is_finite | is_spike
    share = 1.0 / jnp.minimum(watch.num_kept + 1, config.memory)
    off = loss - watch.mean
    kept = Watch(
        mean=watch.mean + share * off,
        variance=(1 - share) * (watch.variance + share * off**2),
        num_kept=watch.num_kept + 1,
        num_skipped=watch.num_skipped,
        num_in_a_row=jnp.zeros((), jnp.int32),
    )
    left_out = dataclasses.replace(watch, num_skipped=watch.num_skipped + 1, num_in_a_row=watch.num_in_a_row + 1)
    watch = unless(skips, kept, left_out)
    return skips, watch.num_in_a_row >= config.most_in_a_row, watch


def unless(condition: Bool[Array, ""], new, old):
    """`old` throughout where the condition holds, else `new`."""
    return jax.tree.map(lambda new, old: jnp.where(condition, old, new), new, old)
