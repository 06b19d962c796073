"""Normalisation of actions and proprio with a dataset's statistics, and its inverse.

    none       x
    gaussian   (x - mean) / std
    quantile   2 (x - q01) / (q99 - q01) - 1, clipped to [-1, 1]

A dimension with mask False passes through. A constant one (max - min, or q99 - q01 for `quantile`, at most 1e-6 of
its largest magnitude) becomes 0, and its inverse the constant: dividing by a zero range would blow up any other value.
Axes: ... any, d dimensions.
"""

import dataclasses
from typing import Any

import numpy as np

from vla_jax.types import Dimension, InputError

CONSTANT = 1e-6


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

    def inverse(self, y: np.ndarray) -> np.ndarray:
        """Of `quantile`, the clipped values stay clipped."""
        return (np.asarray(y, np.float64) * self.scale + self.shift).astype(np.float32)


def normalizer(mode: str, statistics: dict[str, Any], dimensions: tuple[Dimension, ...], where: str) -> Normalizer:
    """Args: statistics: `action` or `proprio` of dataset_statistics.json; where: its name, for the error."""
    values = {key: np.asarray(value, np.float64) for key, value in statistics.items()}
    width = len(dimensions)
    if any(len(value) != width for value in values.values()):
        raise InputError(f"{where}: {len(values['mean'])} dimensions, the action space has {width}; other statistics?")
    if mode == "gaussian":
        shift, scale, span = values["mean"], values["std"], values["max"] - values["min"]
    elif mode == "quantile":
        span = values["q99"] - values["q01"]
        shift, scale = (values["q99"] + values["q01"]) / 2, span / 2
    else:
        shift, scale, span = np.zeros(width), np.ones(width), np.ones(width)
    applies = values["mask"].astype(bool) & (mode != "none")
    magnitude = np.maximum(np.abs(values["max"]), np.abs(values["min"]))
    scale = np.where(span <= CONSTANT * magnitude, 0, scale)
    return Normalizer(np.where(applies, shift, 0), np.where(applies, scale, 1), applies & (mode == "quantile"))
