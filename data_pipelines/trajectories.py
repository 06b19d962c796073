"""Where episodes begin and end in a table, and which targets their steps have.

Axes: n rows, h horizon, episode. Rows count the steps of all episodes in order.
"""

import functools

import numpy as np

from data_pipelines.transforms.chunk import Chunk
from data_pipelines.transforms.window import Window


class Trajectories:
    def __init__(self, first_step: np.ndarray, target_valid: np.ndarray):
        """Args: first_step: int64[episode + 1]; target_valid: bool[step]."""
        self.first_step = np.asarray(first_step)
        self.target_valid = np.asarray(target_valid)
        self.num_episodes = len(first_step) - 1
        self.num_steps = int(first_step[-1])

    def episode(self, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.first_step, rows, side="right") - 1

    def bounds(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and last row of each row's episode."""
        episode = self.episode(rows)
        return self.first_step[episode], self.first_step[episode + 1] - 1

    def chunk(self, chunk: Chunk, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The chunk's rows int64[n, h] and mask bool[n, h] at each row.

        False throughout at a step without a target: what the chunk starts from (a pose) may be made up there.
        """
        future, mask = chunk(rows, self._last_target[self.episode(rows)])
        return future, mask & self.target_valid[future] & self.target_valid[rows][:, None]

    def next_target(self, row: int) -> int:
        """The first row with a valid target from this one on; past the episode where it has none."""
        place = np.searchsorted(self._targets, row)
        return int(self._targets[place]) if place < len(self._targets) else self.num_steps

    def windows(self, window: Window) -> np.ndarray:
        """Rows that may be sampled: those whose window has at least one step with a valid target."""
        anchors = window.anchors(self.first_step)
        first, last = self.bounds(anchors)
        rows, _ = window(anchors, first, last)
        seen = np.append(0, np.cumsum(self.target_valid))
        return anchors[seen[rows[:, -1] + 1] > seen[rows[:, 0]]]

    @functools.cached_property
    def _targets(self) -> np.ndarray:
        return np.flatnonzero(self.target_valid)

    @functools.cached_property
    def _last_target(self) -> np.ndarray:
        """Last row with a valid target of each episode; its first row where there is none."""
        latest = np.maximum.accumulate(np.where(self.target_valid, np.arange(self.num_steps), -1))
        last = self.first_step[1:] - 1
        return np.maximum(np.append(latest, -1)[last], self.first_step[:-1])
