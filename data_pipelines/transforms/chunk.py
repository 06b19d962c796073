"""Which future steps make up the action chunk at a step.

Axes: n steps, h horizon.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Chunk:
    horizon: int
    stride: int = 1
    """Steps between the entries (coarse chunks)."""
    octo_compat: bool = False
    """True: the mask of Octo's published code, which by a wrong sign begins late: the first repeated action of every
    chunk is trained as if it were real."""

    def __call__(self, row: np.ndarray, last_target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows int64[n, h] whose targets are at row, row + stride, ..., the last valid one of the episode repeated
        past it, and their mask bool[n, h], False from there on.
        """
        wanted = row[:, None] + self.stride * np.arange(self.horizon)
        last = last_target[:, None]
        return np.minimum(wanted, last), wanted <= last + self.octo_compat
