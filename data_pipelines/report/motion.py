"""Actions and proprio of a split: as stored, and as the targets of an action space.

Axes: n steps, h horizon, a action, p proprio.
"""

import dataclasses
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import action_spaces
from data_pipelines.action_spaces import relative_pose
from data_pipelines.discovery import find_action_space
from data_pipelines.index.shard_index import STEPS
from data_pipelines.index.sidecar import Index
from data_pipelines.report.histogram import Histogram, histogram
from data_pipelines.source import Source
from data_pipelines.table import Table
from data_pipelines.transforms.chunk import Chunk
from data_pipelines.verification.subject import Subject
from vla_jax.types import ActionSpace, Dimension, InputError

MOST_STEPS = 100_000
"""Histograms of larger splits are of so many steps, drawn evenly; quantiles are of all."""
MOST_TARGETS = 300_000
MOST_RAW = 32
"""Dimensions as stored that are shown."""


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Of one vector."""

    histograms: tuple[Histogram, ...]
    left_out: tuple[str, ...] = ()
    """Names of dimensions without a histogram."""


@dataclasses.dataclass(frozen=True)
class Motion:
    space: ActionSpace
    action: Numbers
    proprio: Numbers
    num_shown: int
    """Steps that the histograms are of."""
    num_steps: int


def targets(source: Source, rows: np.ndarray, horizon: int) -> np.ndarray:
    """float32[n, h, a], the first `horizon` entries of each chunk; NaN where there is no finite target."""
    steps, ahead, mask = source.gather(rows, Chunk(horizon))
    usable = mask & steps["finite"][:, None] & ahead["finite"]
    return np.where(usable[..., None], source.form.targets(steps, ahead), np.nan)


def fitting_space(table: Table) -> ActionSpace:
    """Relative poses where the dataset has them, else the first action space by name that it can be mapped into."""
    others = sorted(module.name for module in pkgutil.iter_modules(action_spaces.__path__))
    for name in (relative_pose.__name__.rpartition(".")[2], *others):
        form = find_action_space(name)
        if all(key in table.columns for key in form.REQUIRED):
            return form.action_space(1)
    raise InputError(f"no action space of {others} takes what this dataset gives: {sorted(table.columns)}")


def describe_motion(source: Source, cache: Path, jobs: int) -> Motion:
    space, num_steps = source.requirements.action_space, source.index.num_steps
    tree = source.statistics(cache, jobs=jobs).tree()
    rows = sampled(num_steps, min(MOST_STEPS, MOST_TARGETS // space.horizon))
    action = targets(source, rows, space.horizon).reshape(-1, space.action_width)
    steps = {key: column[rows] for key, column in source.columns.items()}
    proprio = source.form.proprio(steps)[steps["finite"]]
    return Motion(
        space,
        _numbers(action[np.isfinite(action).all(1)], space.dimensions, tree["action"], source.available),
        _numbers(proprio, space.proprio, tree["proprio"], np.ones(space.proprio_width, bool)),
        len(rows),
        num_steps,
    )


def _numbers(
    values: np.ndarray, dimensions: tuple[Dimension, ...], statistics: dict[str, Any], available: np.ndarray
) -> Numbers:
    given: list[Histogram | None] = []
    for number, dimension in enumerate(dimensions):
        quantiles = statistics["q01"][number], statistics["q99"][number]
        column = values[:, number] if available[number] else values[:0, number]
        given.append(histogram(dimension.name, column, unit=dimension.unit, quantiles=quantiles))
    left_out = tuple(dimension.name for dimension, shown in zip(dimensions, given) if shown is None)
    return Numbers(tuple(shown for shown in given if shown is not None), left_out)


def describe_raw(subject: Subject, index: Index) -> Numbers:
    """The numbers that `standardize` reads, or of an unknown dataset those that look like state and action."""
    given: list[Histogram] = []
    left_out: list[str] = []
    rows = sampled(index.num_steps, MOST_STEPS)
    for name, column in _raw_columns(subject, index):
        shown = histogram(name, column[rows]) if len(given) < MOST_RAW else None
        if shown is None:
            left_out.append(name)
        else:
            given.append(shown)
    return Numbers(tuple(given), tuple(left_out))


def _raw_columns(subject: Subject, index: Index) -> Iterator[tuple[str, np.ndarray]]:
    for key in subject.numbers:
        column = index.column(key, "number")
        flat = column.reshape(len(column), -1)
        for number in range(flat.shape[1]):
            name = key.removeprefix(STEPS)
            yield f"{name}[{number}]" if flat.shape[1] > 1 else name, flat[:, number]


def describe_grippers(subject: Subject, index: Index, table: Table) -> Numbers:
    """Commands as stored, then what `standardize` makes of them, and of what was measured; 1 is open."""
    rows = sampled(index.num_steps, MOST_STEPS)
    first = slice(*index.first_step[:2].tolist())
    raw = {key.removeprefix(STEPS): index.column(key, "number")[first] for key in subject.numbers}
    commands = [
        (name, column) for name, column in _raw_columns(subject, index) if name.partition("[")[0].startswith("action")
    ]
    found = [histogram(f"{commands[n][0]} as stored", commands[n][1][rows]) for n in sorted(subject.grippers(raw))]
    for side in ("", "left_"):
        for key, meaning in (("target_gripper", "commanded"), ("gripper", "measured")):
            if side + key in table.columns:
                name = f"{'left ' if side else ''}{meaning}"
                found.append(histogram(name, table.columns[side + key][rows], unit="openness"))
    return Numbers(tuple(shown for shown in found if shown is not None))


def sampled(num_rows: int, most: int) -> np.ndarray:
    """All rows, or at least nine tenths of `most` of them, drawn evenly and the same every time; rising."""
    if num_rows <= most:
        return np.arange(num_rows)
    return np.unique(np.random.default_rng(0).integers(num_rows, size=most))
