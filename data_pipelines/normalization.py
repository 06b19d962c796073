"""Normalisation of actions and proprio with a dataset's statistics, and its inverse.

    none       x
    gaussian   (x - mean) / std
    bounds     2 (x - min) / (max - min) - 1, clipped to [-1, 1]
    quantile   2 (x - q01) / (q99 - q01) - 1, clipped to [-1, 1]

A dimension with mask False passes through. A constant one (max - min, or q99 - q01 for `quantile`, at most 1e-6 of
its largest magnitude) becomes 0, and its inverse the constant: dividing by a zero range would blow up any other value.
Such dimensions are named in one warning.

A dimension that hardly moves is never blown up either: std, or half the range, counts at least as `FLOORS` says for
its unit. A robot that never turns shows servo noise of some 1e-5 in its rotations; divided by that noise's own
deviation it would weigh as much in the loss as the motion that matters, and a policy would learn it. The floors lie
below what robots repeat, so that real motion is scaled by its own spread.
Axes: ... any, d dimensions.
"""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from vla_jax.types import Dimension, InputError

CONSTANT = 1e-6
FLOORS = {"metre": 1e-4, "radian": 2e-4, "1": 2e-4}
"""Smallest divisor by unit ("1": entries of rotation matrices and quaternions); other units have none."""
LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Normalizer:
    shift: np.ndarray
    scale: np.ndarray
    """0 where constant."""
    clip: np.ndarray
    """bool[d]."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        safe = np.where(self.scale == 0, 1, self.scale)
        y = np.where(self.scale == 0, 0, (x - self.shift) / safe).astype(np.float32)
        return np.where(self.clip, np.clip(y, -1, 1), y)

    def __getitem__(self, dataset: np.ndarray) -> "Normalizer":
        """Of stacked ones, that of each row's dataset."""
        return Normalizer(self.shift[dataset], self.scale[dataset], self.clip[dataset])

    def inverse(self, y: np.ndarray) -> np.ndarray:
        """Of `bounds` and `quantile`, the clipped values stay clipped."""
        return (np.asarray(y, np.float64) * self.scale + self.shift).astype(np.float32)


def stack(normalizers: Sequence[Normalizer]) -> Normalizer:
    """Of several datasets, to be chosen from by number."""
    return Normalizer(*(np.stack([getattr(n, name) for n in normalizers]) for name in ("shift", "scale", "clip")))


def normalizer(
    mode: str,
    statistics: dict[str, Any],
    dimensions: tuple[Dimension, ...],
    where: str,
    available: np.ndarray | None = None,
) -> Normalizer:
    """Args: statistics: `action` or `proprio` of dataset_statistics.json; where: its name, for errors and warnings;
    available: bool[d], the dimensions that the dataset has at all; default: every one.
    """
    values = {key: np.asarray(value, np.float64) for key, value in statistics.items()}
    width = len(dimensions)
    if any(len(value) != width for value in values.values()):
        raise InputError(f"{where}: {len(values['mean'])} dimensions, the action space has {width}; other statistics?")
    applies = values["mask"].astype(bool) & (mode != "none")
    shift, scale, span = _affine(mode, values)
    magnitude = np.maximum(np.abs(values["max"]), np.abs(values["min"]))
    is_constant = applies & (span <= CONSTANT * magnitude)
    floor = np.array([FLOORS.get(dimension.unit, 0.0) for dimension in dimensions])
    scale = np.where(is_constant, 0, np.maximum(scale, floor))
    told = is_constant if available is None else is_constant & available
    if told.any():
        _warn(where, tuple(dimension.name for dimension, here in zip(dimensions, told) if here))
    is_clipped = applies & (mode in ("bounds", "quantile"))
    return Normalizer(np.where(applies, shift, 0), np.where(applies, scale, 1), is_clipped)


def _affine(mode: str, values: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shift, scale, and the range that tells whether a dimension is constant."""
    if mode == "gaussian":
        return values["mean"], values["std"], values["max"] - values["min"]
    low, high = ("q01", "q99") if mode == "quantile" else ("min", "max")
    span = values[high] - values[low]
    return (values[high] + values[low]) / 2, span / 2, span


@functools.cache
def _warn(where: str, names: tuple[str, ...]) -> None:
    LOG.warning("%s: constant, so always 0 when normalised: %s", where, ", ".join(names))
