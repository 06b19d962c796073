"""Which future steps make up the action chunk at a step.

Axes: n steps, h horizon.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Chunk:
    horizon: int

    def __call__(self, row: np.ndarray, last_target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows int64[n, h] whose targets are at row, row + 1, ..., the last valid one of the episode repeated past
        it, and their mask bool[n, h], False from there on.
        """
        wanted = row[:, None] + np.arange(self.horizon)
        return np.minimum(wanted, last_target[:, None]), wanted <= last_target[:, None]
