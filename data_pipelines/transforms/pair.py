"""Frame pairs: beside each step the one k steps later, as latent action models read them (UniVLA).

Axes: n samples, w window. Rows count the steps of all episodes in order.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Pair:
    offset: int

    def __call__(self, rows: np.ndarray, mask: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 and bool[n, w] of windows, int64[n] last rows of their episodes, to the rows of the later steps, the
        last one repeated past the end, and their mask, False there.
        """
        wanted = rows + self.offset
        return np.minimum(wanted, last[:, None]), mask & (wanted <= last[:, None])
