"""Which proposals of a picture become its boxes: good, stable, neither tiny nor everything, and not twice.

Axes: n proposals, k boxes.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from vla_jax.segmentation.mask_generation import Proposals
from vla_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """Limits as of Kirillov et al. 2023, but for the areas, which keep out specks and the table that all lies on."""

    count: int = 16
    """The best of them, by quality."""
    smallest_quality: float = 0.88
    smallest_stability: float = 0.95
    largest_overlap: float = 0.7
    """Intersection over union of two boxes; of those that have more, the better one stays."""
    smallest_area: float = 0.001
    largest_area: float = 0.7
    """Of the mask, in shares of the picture."""

    def __post_init__(self):
        if not 0 <= self.smallest_area < self.largest_area <= 1:
            raise InputError(f"areas {self.smallest_area} to {self.largest_area}: rising shares of 0 to 1 are expected")
        for name in ("smallest_quality", "smallest_stability", "largest_overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name.replace('_', '-')} is {getattr(self, name)}: a share of 0 to 1 is expected")
        if self.count < 1:
            raise InputError(f"count is {self.count}: at least 1 is expected")

    def __call__(
        self, proposals: Proposals, height: int, width: int
    ) -> tuple[Float[np.ndarray, "k 4"], Bool[np.ndarray, "k"]]:
        """Of one picture: boxes in shares of it, best first, zeros where the mask is False."""
        found, quality, stability, areas = (np.asarray(numbers) for numbers in proposals)
        shares = areas / (height * width)
        good = (quality > self.smallest_quality) & (stability > self.smallest_stability)
        good &= (shares >= self.smallest_area) & (shares <= self.largest_area) & (areas > 0)
        candidates = np.flatnonzero(good)
        best = candidates[without_overlaps(found[candidates], quality[candidates], self.largest_overlap)]
        boxes, mask = np.zeros((self.count, 4), np.float32), np.zeros(self.count, bool)
        chosen = found[best[: self.count]]
        boxes[: len(chosen)], mask[: len(chosen)] = chosen / (width, height, width, height), True
        return boxes, mask


def without_overlaps(
    boxes: Int[np.ndarray, "j 4"], scores: Float[np.ndarray, "j"], largest_overlap: float
) -> Int[np.ndarray, "k"]:
    """Greedy non-maximum suppression: places of those kept, best first; of equal ones the first."""
    left, upper, right, lower = boxes.astype(np.float64).T
    areas = (right - left) * (lower - upper)
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        width = np.minimum(right[best], right[order]) - np.maximum(left[best], left[order])
        height = np.minimum(lower[best], lower[order]) - np.maximum(upper[best], upper[order])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        order = order[shared <= largest_overlap * (areas[best] + areas[order] - shared)]
    return np.array(kept, np.int64)
