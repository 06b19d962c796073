"""Which steps a policy sees around a sampled step.

Axes: n samples, w window. Rows count the steps of all episodes in order; an episode spans first..last, both included.
"""

import dataclasses
from typing import Literal, NamedTuple

import numpy as np


class WindowRows(NamedTuple):
    rows: np.ndarray
    """int64[n, w], clamped into the episode."""
    mask: np.ndarray
    """bool[n, w], False where the window leaves the episode."""


@dataclasses.dataclass(frozen=True)
class Window:
    length: int
    anchor: Literal["first", "last"]

    def __call__(self, row: np.ndarray, first: np.ndarray, last: np.ndarray) -> WindowRows:
        """The training window of each sampled step, int64[n] each: it starts or ends there, as the anchor says."""
        start = row if self.anchor == "first" else row - self.length + 1
        wanted = start[:, None] + np.arange(self.length)
        first, last = first[:, None], last[:, None]
        return WindowRows(np.clip(wanted, first, last), (wanted >= first) & (wanted <= last))

    def history(self, row: np.ndarray, first: np.ndarray) -> WindowRows:
        """What a robot has seen at each step: windows that end there, padded on the anchor's side."""
        start = row - self.length + 1
        if self.anchor == "first":
            start = np.maximum(start, first)
        wanted = start[:, None] + np.arange(self.length)
        first, row = first[:, None], row[:, None]
        return WindowRows(np.clip(wanted, first, row), (wanted >= first) & (wanted <= row))

    def anchors(self, first_step: np.ndarray) -> np.ndarray:
        """Every row that may be sampled, int64[num_windows]; `first_step` int64[episode + 1].

        Anchor `first`: max(1, length - w + 1) an episode. Anchor `last`: every step.
        """
        lengths = np.diff(first_step)
        num_steps = int(first_step[-1])
        if self.anchor == "last":
            return np.arange(num_steps)
        place = np.arange(num_steps) - np.repeat(first_step[:-1], lengths)
        return np.flatnonzero(place <= np.repeat(np.maximum(lengths - self.length, 0), lengths))
