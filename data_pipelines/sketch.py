"""Mergeable count, moments, extremes and quantile sketch of vectors.

Mean and variance by Chan's update. Quantiles by a histogram of logarithmic bins (DDSketch, arXiv 1908.10693): one is
within RELATIVE_ERROR of the sample at its rank; magnitudes below SMALLEST count as 0, those above LARGEST as the
extreme. Merging adds no error to quantiles, whatever the order; moments are the same bits where parts are merged in
the same order.

Axes: n rows, d dimensions.
"""

import itertools
import math
from collections.abc import Mapping

import numpy as np

from vla_jax.types import Dimension

RELATIVE_ERROR = 1e-4
GAMMA = math.log((1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR))
SMALLEST = 1e-9
LARGEST = 1e9
LOWEST_BIN = math.ceil(math.log(SMALLEST) / GAMMA)
NUM_BINS = math.ceil(math.log(LARGEST) / GAMMA) - LOWEST_BIN + 1
"""On each side of 0."""
ALL_BINS = 2 * NUM_BINS + 1
"""Of a dimension; the middle one holds magnitudes below SMALLEST. Bins of all dimensions are numbered through."""
MOST_PENDING = 1 << 20
ARRAYS = ("count", "mean", "squares", "low", "high", "bins", "bin_counts")


class Sketch:
    def __init__(self, width: int):
        self.count = 0
        self.mean, self.squares = np.zeros(width), np.zeros(width)
        self.low, self.high = np.full(width, np.inf), np.full(width, -np.inf)
        self._filled: tuple[np.ndarray, np.ndarray] | None = None
        """Bins and their counts: all that a sketch of a shard, or one that was read, holds."""
        self._counts: np.ndarray | None = None
        """Of all bins, where sketches or many rows come together; None before."""
        self._pending: list[np.ndarray] = []

    @classmethod
    def load(cls, arrays: Mapping[str, np.ndarray], prefix: str) -> "Sketch":
        """KeyError or ValueError where they are not those that `arrays` gives."""
        loaded = {name: arrays[prefix + name] for name in ARRAYS}
        sketch = cls(len(loaded["mean"]))
        sketch.count = int(loaded["count"])
        sketch.mean, sketch.squares, sketch.low, sketch.high = (loaded[name] for name in ARRAYS[1:5])
        sketch._filled = loaded["bins"], loaded["bin_counts"]
        return sketch

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        bins, counts = self.histogram()
        values = (np.array(self.count), self.mean, self.squares, self.low, self.high, bins, counts)
        return {prefix + name: value for name, value in zip(ARRAYS, values)}

    def add(self, x: np.ndarray) -> None:
        """Args: x: [n, d], finite."""
        if not len(x):
            return
        columns = np.ascontiguousarray(x.T, np.float64)
        mean = columns.mean(1)
        deviation = columns - mean[:, None]
        squares = np.einsum("dn,dn->d", deviation, deviation)
        self._merge_moments(len(x), mean, squares, columns.min(1), columns.max(1))
        self._pending.append((_bins(columns) + ALL_BINS * np.arange(len(columns), dtype=np.int32)[:, None]).reshape(-1))
        if sum(map(len, self._pending)) > MOST_PENDING:
            self._gather()

    def merge(self, other: "Sketch") -> None:
        self._merge_moments(other.count, other.mean, other.squares, other.low, other.high)
        bins, counts = other.histogram()
        self._gather()[bins] += counts

    def histogram(self) -> tuple[np.ndarray, np.ndarray]:
        """The filled bins, rising, int32, and their counts, int64."""
        if self._counts is None and self._filled is None:
            pending = np.concatenate([np.zeros(0, np.int32), *self._pending])
            self._filled, self._pending = np.unique(pending, return_counts=True), []
        elif self._counts is not None or self._pending:
            counts = self._gather()
            bins = np.flatnonzero(counts)
            return bins.astype(np.int32), counts[bins]
        assert self._filled is not None
        return self._filled

    def quantile(self, q: float) -> np.ndarray:
        """Of each dimension, near the sample with rank floor(q (count - 1))."""
        bins, counts = self.histogram()
        bounds = np.searchsorted(bins, ALL_BINS * np.arange(len(self.mean) + 1))
        rank = math.floor(q * (self.count - 1))
        values = []
        for dimension, (start, end) in enumerate(itertools.pairwise(bounds)):
            place = start + int(np.searchsorted(np.cumsum(counts[start:end]), rank, side="right"))
            values.append(_middle(int(bins[place]) - dimension * ALL_BINS - NUM_BINS))
        return np.clip(values, self.low, self.high)

    def tree(self, dimensions: tuple[Dimension, ...]) -> dict[str, list]:
        """`action` or `proprio` of dataset_statistics.json."""
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

    def _merge_moments(
        self, count: int, mean: np.ndarray, squares: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> None:
        if not count:
            return
        total, difference = self.count + count, mean - self.mean
        self.mean = self.mean + difference * count / total
        self.squares = self.squares + squares + difference**2 * self.count * count / total
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.count = total

    def _gather(self) -> np.ndarray:
        """The counts of all bins."""
        if self._counts is None:
            self._counts = np.zeros(len(self.mean) * ALL_BINS, np.int64)
        if self._filled is not None:
            bins, counts = self._filled
            self._counts[bins] += counts
            self._filled = None
        if self._pending:
            self._counts += np.bincount(np.concatenate(self._pending), minlength=len(self._counts))
            self._pending = []
        return self._counts


def _bins(x: np.ndarray) -> np.ndarray:
    """Numbers that rise with x, int32, 0 to ALL_BINS - 1."""
    magnitude = np.abs(x)
    number = np.ceil(np.log(np.clip(magnitude, SMALLEST, LARGEST)) * (1 / GAMMA)).astype(np.int32)
    number = np.clip(number - (LOWEST_BIN - 1), 1, NUM_BINS)
    return NUM_BINS + np.where(magnitude < SMALLEST, 0, np.where(x < 0, -number, number))


def _middle(number: int) -> float:
    """The middle of a bin, counted from 0."""
    middle = 2 * math.exp(GAMMA * (abs(number) + LOWEST_BIN - 1)) / (math.exp(GAMMA) + 1)
    return math.copysign(middle, number) if number else 0.0
