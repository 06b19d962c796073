"""Errors of predicted action chunks against recorded ones.

Axes: n steps of all episodes, h horizon, a action. Everything is un-normalised: metres, rotation entries, openness.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from vla_jax.types import Dimension


@dataclasses.dataclass(frozen=True)
class ActionErrors:
    predicted: Float[np.ndarray, "n h a"]
    recorded: Float[np.ndarray, "n h a"]
    mask: Bool[np.ndarray, "n h a"]
    ids: Int[np.ndarray, "n 2"]
    """(episode, step)."""

    def mean_absolute(self) -> Float[np.ndarray, "h a"]:
        """0 where nothing was recorded."""
        return _masked_mean(np.abs(self.predicted - self.recorded), self.mask)

    def root_mean_square(self) -> Float[np.ndarray, "h a"]:
        return np.sqrt(_masked_mean((self.predicted - self.recorded) ** 2, self.mask))

    def count(self) -> Int[np.ndarray, "h a"]:
        return self.mask.sum(0)

    def of_constant(self, value: Float[np.ndarray, "a"]) -> Float[np.ndarray, "h a"]:
        """Mean absolute error of always answering `value`: the training mean is what a blind policy would say."""
        return _masked_mean(np.abs(value - self.recorded), self.mask)

    def mean_of(self, error: Float[np.ndarray, "n h"]) -> Float[np.ndarray, "h"]:
        """Mean over steps of an error of whole actions."""
        return _masked_mean(error, np.all(self.mask, axis=-1))

    def table(self, dimensions: tuple[Dimension, ...], baseline: Float[np.ndarray, "h a"]) -> list[dict[str, Any]]:
        """One row a horizon entry and dimension."""
        absolute, square, count = self.mean_absolute(), self.root_mean_square(), self.count()
        return [
            {
                "horizon": h + 1,
                "dimension": dimension.name,
                "unit": dimension.unit,
                "mean_absolute_error": f"{absolute[h, a]:.6g}",
                "root_mean_square_error": f"{square[h, a]:.6g}",
                "baseline_mean_absolute_error": f"{baseline[h, a]:.6g}",
                "count": count[h, a],
            }
            for h in range(len(absolute))
            for a, dimension in enumerate(dimensions)
        ]


def _masked_mean(error: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask, error, 0).sum(0) / np.maximum(mask.sum(0), 1)
