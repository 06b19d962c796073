"""Statistics of actions and proprio, from the table alone: no picture is read.

Targets are pooled over the valid entries of the chunks at every step, proprio over all steps. Mean and variance by
Chan's update, quantiles by a histogram of logarithmic bins (DDSketch, arXiv 1908.10693): a quantile is within 0.01 % of
the sample at its rank (magnitudes below 1e-9 count as 0, those above 1e9 as the extreme). Parts merge without further
error, in any order, so that hosts or shards can be counted apart. Rows that are not finite are left out and reported.

Axes: n rows, d dimensions.
"""

import hashlib
import json
import logging
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from data_pipelines.cache import write_json
from data_pipelines.discovery import Dataset, source_digest
from data_pipelines.index.sidecar import Index, split_cache
from data_pipelines.schema import Trajectory
from data_pipelines.table import Table
from data_pipelines.trajectories import Trajectories
from data_pipelines.transforms.chunk import Chunk
from vla_jax.types import ActionSpace, Dimension, InputError

RELATIVE_ERROR = 1e-4
GAMMA = math.log((1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR))
SMALLEST = 1e-9
LARGEST = 1e9
LOWEST_BIN = math.ceil(math.log(SMALLEST) / GAMMA)
NUM_BINS = math.ceil(math.log(LARGEST) / GAMMA) - LOWEST_BIN + 1
"""On each side of 0."""
BLOCK = 8192
LOG = logging.getLogger(__name__)


class Summary:
    """Mergeable count, mean, variance, extremes and quantile sketch of the rows seen so far."""

    def __init__(self, width: int):
        self.count = 0
        self.mean, self.squares = np.zeros(width), np.zeros(width)
        self.low, self.high = np.full(width, np.inf), np.full(width, -np.inf)
        self.bins = np.zeros((width, 2 * NUM_BINS + 1), np.int64)

    def add(self, x: np.ndarray) -> None:
        if not len(x):
            return
        x = x.astype(np.float64)
        mean = x.mean(0)
        self._merge_moments(len(x), mean, ((x - mean) ** 2).sum(0), x.min(0), x.max(0))
        for counts, column in zip(self.bins, x.T):
            counts += np.bincount(_bin(column), minlength=len(counts))

    def merge(self, other: "Summary") -> None:
        self._merge_moments(other.count, other.mean, other.squares, other.low, other.high)
        self.bins += other.bins

    def _merge_moments(
        self, count: int, mean: np.ndarray, squares: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> None:
        total, difference = self.count + count, mean - self.mean
        if not count:
            return
        self.mean = self.mean + difference * count / total
        self.squares = self.squares + squares + difference**2 * self.count * count / total
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.count = total

    def quantile(self, q: float) -> np.ndarray:
        values = [_quantile(bins, q, self.count) for bins in self.bins]
        return np.clip(values, self.low, self.high)

    def tree(self, dimensions: tuple[Dimension, ...]) -> dict[str, list]:
        numbers = {
            "mean": self.mean,
            "std": np.sqrt(self.squares / self.count),
            "min": self.low,
            "max": self.high,
            "q01": self.quantile(0.01),
            "q99": self.quantile(0.99),
        }
        mask = [dimension.normalize for dimension in dimensions]
        return {key: value.tolist() for key, value in numbers.items()} | {"mask": mask}


def _bin(x: np.ndarray) -> np.ndarray:
    """Bin numbers that rise with x; the middle one holds magnitudes below SMALLEST."""
    magnitude = np.clip(np.abs(x), SMALLEST, LARGEST)
    number = np.ceil(np.log(magnitude) / GAMMA).astype(np.int64) - LOWEST_BIN + 1
    return NUM_BINS + np.where(np.abs(x) < SMALLEST, 0, np.sign(x).astype(np.int64) * np.minimum(number, NUM_BINS))


def _quantile(bins: np.ndarray, q: float, count: int) -> float:
    """The middle of the bin of the sample with rank floor(q (count - 1))."""
    number = int(np.searchsorted(np.cumsum(bins), math.floor(q * (count - 1)), side="right")) - NUM_BINS
    middle = 2 * math.exp(GAMMA * (abs(number) + LOWEST_BIN - 1)) / (math.exp(GAMMA) + 1)
    return math.copysign(middle, number) if number else 0.0


def summarize(columns: Trajectory, trajectories: Trajectories, form: ModuleType, space: ActionSpace) -> dict[str, Any]:
    """Statistics of a table, as dataset_statistics.json has them, without `key`."""
    action, proprio = Summary(space.action_width), Summary(space.proprio_width)
    chunk, left_out = Chunk(space.horizon), 0
    for start in range(0, trajectories.num_steps, BLOCK):
        rows = np.arange(start, min(start + BLOCK, trajectories.num_steps))
        finite = columns["finite"][rows]
        steps = {key: column[rows] for key, column in columns.items()}
        future, mask = trajectories.chunk(chunk, rows)
        valid = mask & finite[:, None] & columns["finite"][future]
        action.add(form.targets(steps, {key: column[future] for key, column in columns.items()})[valid])
        proprio.add(form.proprio(steps)[finite])
        left_out += int((~finite).sum())
    if left_out:
        LOG.warning("statistics: %d of %d steps are not finite and left out", left_out, trajectories.num_steps)
    if not action.count:
        raise InputError("statistics: not one step has a valid, finite target; the split cannot be trained on")
    return {
        "action": action.tree(space.dimensions),
        "proprio": proprio.tree(space.proprio),
        "num_transitions": trajectories.num_steps,
        "num_trajectories": trajectories.num_episodes,
    }


def statistics_key(dataset: Dataset, index: Index, table: Table, space: ActionSpace) -> str:
    """Changes with the data, the standardisation, the action space's code and its layout."""
    form = f"data_pipelines.action_spaces.{space.form}"
    parts = [index.directory.version, *(shard["digest"] for shard in index.tree["shards"]), dataset.source_digest]
    parts += [table.digest, source_digest(form), source_digest(__name__), space.form, str(space.horizon)]
    parts += [repr(space.dimensions), repr(space.proprio)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def open_statistics(
    dataset: Dataset, index: Index, table: Table, form: ModuleType, space: ActionSpace, cache: Path
) -> dict[str, Any]:
    """From the cache where its key still holds, else computed and cached."""
    key = statistics_key(dataset, index, table, space)
    path = split_cache(index.directory, index.split, cache) / f"statistics-{key[:16]}.json"
    try:
        tree = json.loads(path.read_text())
        if tree["key"] == key:
            return tree
    except (OSError, ValueError, KeyError, TypeError) as error:
        if path.exists():
            LOG.warning("%s: damaged, computed again (%s)", path, error)
    trajectories = Trajectories(index.first_step, table.columns["target_valid"])
    try:
        tree = summarize(table.columns, trajectories, form, space) | {"key": key}
    except InputError as error:
        raise InputError(f"{index.directory.path}: split {index.split!r}: {error}") from error
    write_json(path, tree)
    return tree
