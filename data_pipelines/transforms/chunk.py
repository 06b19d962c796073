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
        wanted, last = self._wanted(row), last_target[:, None]
        return np.minimum(wanted, last), wanted <= last + self.octo_compat

    def before(self, row: np.ndarray, goal: int, next_target: int) -> np.ndarray:
        """bool[n, h], False from the goal on: what comes then does not lead to it. Source: Octo's `chunk_act_obs`.

        The next target of the present step always stays, also where the goal is the present step: statistics count it,
        and no sample is drawn in vain. Octo's code comes to two steps more, by its wrong sign.
        Args: row: int64[n]; goal: row of the goal's picture; next_target: the first row with one from the last step
        that the policy sees on.
        """
        return self._wanted(row) < max(goal + 2 * self.octo_compat, next_target + 1)

    def _wanted(self, row: np.ndarray) -> np.ndarray:
        return row[:, None] + self.stride * np.arange(self.horizon)
