"""How much of each dataset a run sees: shares of the samples, and effective epochs."""

import dataclasses
from collections.abc import Sequence

from data_pipelines.config import MixtureEntry
from vla_jax.types import InputError


def shares(entries: Sequence[MixtureEntry], transitions: Sequence[int], *, weigh_by_size: bool) -> tuple[float, ...]:
    """Of the samples, for each dataset; together 1. Args: transitions: steps of each dataset."""
    weights = [entry.weight * (size if weigh_by_size else 1) for entry, size in zip(entries, transitions, strict=True)]
    total = sum(weights)
    return tuple(weight / total for weight in weights)


@dataclasses.dataclass(frozen=True)
class Exposure:
    """What a run sees of one dataset."""

    name: str
    share: float
    samples: float
    epochs: float
    """How often each transition is sampled."""


def exposures(
    entries: Sequence[MixtureEntry],
    transitions: Sequence[int],
    *,
    weigh_by_size: bool,
    num_steps: int,
    batch_size: int,
) -> tuple[Exposure, ...]:
    """Of a run of so many optimizer steps, in expectation. Args: transitions: steps of each dataset."""
    if empty := [entry.name for entry, size in zip(entries, transitions, strict=True) if size < 1]:
        raise InputError(f"data.mixture: {empty} have no transitions")
    drawn = num_steps * batch_size
    parts = shares(entries, transitions, weigh_by_size=weigh_by_size)
    return tuple(
        Exposure(entry.name, share, share * drawn, share * drawn / size)
        for entry, share, size in zip(entries, parts, transitions)
    )
