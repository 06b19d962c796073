"""Boxes of a picture to those of the picture as the policy sees it.

Axes: w window, k boxes. Boxes are left, upper, right, lower in shares of the picture.
"""

import dataclasses

import numpy as np

from data_pipelines.transforms.geometry import Geometry


@dataclasses.dataclass(frozen=True)
class MoveBoxes:
    height: int
    width: int
    """Of the picture that the policy sees, in pixels."""
    smallest_side: float
    """A box that is less wide or high, in shares of that picture, is masked."""

    def __call__(self, boxes: np.ndarray, mask: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
        """float[w, k, 4] and bool[w, k] to float32 and bool of the same shapes: moved, clipped, zero where masked."""
        moved = geometry.boxes(boxes.reshape(-1, 4).astype(np.float64), self.height, self.width)
        moved = np.clip(moved, 0, 1).reshape(boxes.shape)
        sides = moved[..., 2:] - moved[..., :2]
        kept = mask & (sides >= self.smallest_side - 1e-6).all(-1)
        return np.where(kept[..., None], moved, 0).astype(np.float32), kept


@dataclasses.dataclass(frozen=True)
class GridBoxes:
    """Stand-ins where there are no boxes: the squares of a grid, in rows."""

    count: int

    def __call__(self) -> np.ndarray:
        """float32[k, 4]; the last rows of the grid are left out where they do not fill."""
        side = max(1, int(np.ceil(np.sqrt(self.count))))
        row, column = np.divmod(np.arange(self.count), side)
        return (np.stack([column, row, column + 1, row + 1], axis=-1) / side).astype(np.float32)
