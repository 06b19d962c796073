"""Mergeable count, moments, extremes and quantile sketch of vectors.

Mean and variance by Chan's update. Quantiles by a histogram of logarithmic bins (DDSketch, arXiv 1908.10693): one is
within RELATIVE_ERROR of the sample at its rank; magnitudes below SMALLEST count as 0, those above LARGEST as the
extreme. Merging adds no error to quantiles, whatever the order; moments are the same bits where parts are merged in
the same order.

Axes: n rows, d dimensions.
"""

import itertools
import math
from collections.abc import Iterable, Mapping

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
"""Filled bins that wait to be put together with the others."""
Histogram = tuple[np.ndarray, np.ndarray]
"""Filled bins, rising, and how many values each holds."""
ARRAYS = ("count", "mean", "squares", "low", "high", "bins", "bin_counts")


class Sketch:
    def __init__(self, width: int):
        self.count = 0
        self.mean, self.squares = np.zeros(width), np.zeros(width)
        self.low, self.high = np.full(width, np.inf), np.full(width, -np.inf)
        self._histograms: list[Histogram] = [(np.zeros(0, np.int32), np.zeros(0, np.int64))]
        """The first is put together from all before; the others wait for it."""

    @classmethod
    def load(cls, arrays: Mapping[str, np.ndarray], prefix: str) -> "Sketch":
        """KeyError or ValueError where they are not those that `arrays` gives."""
        loaded = {name: arrays[prefix + name] for name in ARRAYS}
        sketch = cls(len(loaded["mean"]))
        sketch.count = int(loaded["count"])
        sketch.mean, sketch.squares, sketch.low, sketch.high = (loaded[name] for name in ARRAYS[1:5])
        sketch._histograms = [(loaded["bins"], loaded["bin_counts"])]
        return sketch

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        bins, counts = self.histogram()
        values = (np.array(self.count), self.mean, self.squares, self.low, self.high, bins, counts)
        return {prefix + name: value for name, value in zip(ARRAYS, values)}

    def add(self, x: np.ndarray) -> None:
        """Args: x: [n, d], finite."""
        if not len(x):
            return
        columns = np.ascontiguousarray(x.T)
        low, high = columns.min(1).astype(np.float64), columns.max(1).astype(np.float64)
        filled = np.flatnonzero((low != 0) | (high != 0))  # in a padded vector, what a robot lacks is 0 throughout
        columns = columns[filled].astype(np.float64)
        mean, squares = np.zeros(len(low)), np.zeros(len(low))
        mean[filled] = columns.mean(1)
        deviation = columns - mean[filled, None]
        squares[filled] = np.einsum("dn,dn->d", deviation, deviation)
        self._merge_moments(len(x), mean, squares, low, high)
        histograms = [(np.array([NUM_BINS], np.int32), np.array([len(x)]))] * len(low)
        for dimension, column in zip(filled.tolist(), columns):
            histograms[dimension] = _histogram(_bins(column))
        self._append(_joined([(bins + np.int32(d * ALL_BINS), counts) for d, (bins, counts) in enumerate(histograms)]))

    def merge(self, other: "Sketch") -> None:
        self._merge_moments(other.count, other.mean, other.squares, other.low, other.high)
        self._append(other.histogram())

    def histogram(self) -> Histogram:
        """The filled bins, rising, int32, and their counts, int64."""
        if len(self._histograms) > 1:
            self._histograms = [_sum(self._histograms)]
        return self._histograms[0]

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

    def _append(self, histogram: Histogram) -> None:
        self._histograms.append(histogram)
        if sum(len(bins) for bins, _ in self._histograms[1:]) > MOST_PENDING:
            self.histogram()


def _joined(histograms: Iterable[Histogram]) -> Histogram:
    bins, counts = zip(*histograms)
    return np.concatenate(bins), np.concatenate(counts)


def _histogram(bins: np.ndarray) -> Histogram:
    """Args: bins: one a value; they are sorted in place."""
    bins.sort()
    first = _firsts(bins)
    return bins[first], np.diff(first, append=len(bins))


def _firsts(bins: np.ndarray) -> np.ndarray:
    """Places where another bin begins. Args: bins: rising."""
    return np.flatnonzero(np.append([True], bins[1:] != bins[:-1])[: len(bins)])


def _sum(histograms: list[Histogram]) -> Histogram:
    bins, counts = _joined(histograms)
    order = np.argsort(bins, kind="stable")  # it merges what is in order already
    bins, counts = bins[order], counts[order]
    first = _firsts(bins)
    return bins[first], np.add.reduceat(counts, first) if len(first) else counts


def _bins(x: np.ndarray) -> np.ndarray:
    """Numbers that rise with x, int32, 0 to ALL_BINS - 1."""
    magnitude = np.abs(x)
    is_zero = magnitude < SMALLEST
    np.clip(magnitude, SMALLEST, LARGEST, out=magnitude)
    np.log(magnitude, out=magnitude)
    magnitude *= 1 / GAMMA
    number = np.ceil(magnitude, out=magnitude).astype(np.int32)
    number -= LOWEST_BIN - 1
    np.clip(number, 1, NUM_BINS, out=number)
    number *= 1 - 2 * (x < 0).view(np.int8)
    number[is_zero] = 0
    number += NUM_BINS
    return number


def _middle(number: int) -> float:
    """The middle of a bin, counted from 0."""
    middle = 2 * math.exp(GAMMA * (abs(number) + LOWEST_BIN - 1)) / (math.exp(GAMMA) + 1)
    return math.copysign(middle, number) if number else 0.0
