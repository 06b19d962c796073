"""The mixture of a page: weights, shares of the samples, and effective epochs."""

import dataclasses

from data_pipelines.config import MixtureEntry
from data_pipelines.exposure import exposures, shares
from data_pipelines.report.survey import Survey


@dataclasses.dataclass(frozen=True)
class PlannedMixture:
    """What a run draws from."""

    name: str
    entries: tuple[MixtureEntry, ...]
    weigh_by_size: bool
    num_steps: int | None = None
    """Optimizer steps; None: no epochs are told."""
    batch_size: int | None = None


@dataclasses.dataclass(frozen=True)
class Weight:
    name: str
    weight: float
    transitions: int | None
    """None: the dataset is not on the page, or has no index."""
    share: float | None = None
    samples: float | None = None
    epochs: float | None = None


@dataclasses.dataclass(frozen=True)
class Weights:
    mixture: PlannedMixture
    rows: tuple[Weight, ...]
    unused: tuple[str, ...]
    """Datasets on the page that the mixture does not name."""

    @property
    def num_absent(self) -> int:
        return sum(row.transitions is None for row in self.rows)


def weigh(mixture: PlannedMixture, surveys: list[Survey]) -> Weights:
    """Shares are among the datasets on the page."""
    steps = {survey.name: survey.count.steps for survey in surveys}
    present = [entry for entry in mixture.entries if steps.get(entry.name)]
    exposed = _exposed(mixture, present, [steps[entry.name] or 0 for entry in present]) if present else {}
    rows = tuple(
        Weight(entry.name, entry.weight, steps.get(entry.name), *exposed.get(entry.name, ()))
        for entry in mixture.entries
    )
    named = {entry.name for entry in mixture.entries}
    return Weights(mixture, rows, tuple(survey.name for survey in surveys if survey.name not in named))


def _exposed(
    mixture: PlannedMixture, entries: list[MixtureEntry], transitions: list[int]
) -> dict[str, tuple[float, ...]]:
    """By dataset: its share, and of a planned run its samples and epochs."""
    if mixture.num_steps is None or mixture.batch_size is None:
        parts = shares(entries, transitions, weigh_by_size=mixture.weigh_by_size)
        return {entry.name: (share,) for entry, share in zip(entries, parts)}
    found = exposures(
        entries,
        transitions,
        weigh_by_size=mixture.weigh_by_size,
        num_steps=mixture.num_steps,
        batch_size=mixture.batch_size,
    )
    return {one.name: (one.share, one.samples, one.epochs) for one in found}
