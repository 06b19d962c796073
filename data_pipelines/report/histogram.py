"""Histograms of numbers, with the range that matters in view.

Axes: n values, d dimensions.
"""

import dataclasses
import math

import numpy as np

NUM_BINS = 36


@dataclasses.dataclass(frozen=True)
class Histogram:
    name: str
    unit: str
    counts: np.ndarray
    """int64[bin], over `low` to `high`; the outer bins hold what lies beyond them too."""
    low: float
    high: float
    smallest: float
    largest: float
    marks: tuple[float, ...] = ()
    """Quantiles 0.01 and 0.99."""
    num_beyond: int = 0
    """Values outside `low` to `high`."""
    note: str = ""
    is_whole: bool = False
    """Of whole numbers: bins are centred on them."""

    @property
    def ends(self) -> tuple[float, float]:
        """What to write below the plot's edges."""
        return (self.smallest, self.largest) if self.is_whole else (self.low, self.high)

    @property
    def is_constant(self) -> bool:
        return self.smallest == self.largest


def histogram(
    name: str, values: np.ndarray, *, unit: str = "", quantiles: tuple[float, float] | None = None
) -> Histogram | None:
    """Of the finite ones among `values` [n]; None where there are none.

    Args: quantiles: 0.01 and 0.99, where they are known; else those of `values`.
    """
    all_values = np.asarray(values, np.float64).reshape(-1)
    finite = all_values[np.isfinite(all_values)]
    if not len(finite):
        return None
    note = f"{len(all_values) - len(finite)} not finite" if len(finite) < len(all_values) else ""
    smallest, largest = float(finite.min()), float(finite.max())
    q01, q99 = quantiles or tuple(np.quantile(finite, (0.01, 0.99), method="lower").tolist())
    span = q99 - q01
    low, high = (max(smallest, q01 - span), min(largest, q99 + span)) if span > 0 else (smallest, largest)
    if low >= high:
        low, high = _around(low)
    num_beyond = int(((finite < low) | (finite > high)).sum())
    counts, _ = np.histogram(np.clip(finite, low, high), bins=NUM_BINS, range=(low, high))
    return Histogram(name, unit, counts, low, high, smallest, largest, (q01, q99), num_beyond, note)


def _around(value: float) -> tuple[float, float]:
    """A range that floating point numbers can divide into bins."""
    margin = max(abs(value) * 1e-3, 1e-6)
    return value - margin, value + margin


def whole_numbers(name: str, values: np.ndarray, weights: np.ndarray | None = None, *, unit: str = "") -> Histogram:
    """Of numbers from 0 on, at least one; one bin a number, or a round number of them."""
    smallest, largest = int(values.min()), int(values.max())
    width = max(1, math.ceil((largest - smallest + 1) / NUM_BINS))
    num_bins = (largest - smallest) // width + 1
    counts = np.bincount((values - smallest) // width, weights, minlength=num_bins)
    order = np.argsort(values, kind="stable")
    below = np.cumsum(np.ones(len(values)) if weights is None else weights[order])
    median = int(values[order][np.searchsorted(below, below[-1] / 2)])
    return Histogram(
        name,
        unit,
        np.rint(counts).astype(np.int64),
        low=smallest - 0.5,
        high=smallest + num_bins * width - 0.5,
        smallest=smallest,
        largest=largest,
        note=f"median {median}",
        is_whole=True,
    )
