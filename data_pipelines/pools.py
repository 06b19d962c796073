"""The order of windows in access mode `episode`: those of a few episodes at a time, mixed among themselves.

Every epoch the episodes are permuted and cut into groups, each of at most so many episodes and bytes (one episode at
least); the windows of a group are shuffled. All of it follows from (seed, epoch, group), so that the window at any
place is found without what came before.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

FOR_EVER = 1 << 48


class Visit(NamedTuple):
    epoch: int
    group: int


class Drawn(NamedTuple):
    window: int
    visit: Visit


class _Plan(NamedTuple):
    """Of one epoch."""

    episodes: np.ndarray
    """int64[n]: those with windows, permuted."""
    first_episode: np.ndarray
    """int64[group + 1]: into `episodes`."""
    first_place: np.ndarray
    """int64[group + 1]: of the group's windows, within the epoch."""


@dataclasses.dataclass(frozen=True, eq=False)
class EpisodeOrder:
    seed: int
    first_window: np.ndarray
    """int64[episode + 1]: windows are numbered episode by episode."""
    num_bytes: np.ndarray
    """int64[episode]."""
    max_episodes: int
    max_bytes: int
    """Of a group."""

    def __len__(self) -> int:
        return FOR_EVER

    def __getitem__(self, place: int) -> Drawn:
        epoch, place = divmod(int(place), int(self.first_window[-1]))
        first_place = self._plan(epoch).first_place
        group = int(np.searchsorted(first_place, place, side="right")) - 1
        window = self._windows(epoch, group)[place - int(first_place[group])]
        return Drawn(int(window), Visit(epoch, group))

    def episodes(self, visit: Visit) -> np.ndarray:
        plan = self._plan(visit.epoch)
        return plan.episodes[plan.first_episode[visit.group] : plan.first_episode[visit.group + 1]]

    def after(self, visit: Visit) -> Visit:
        is_last = visit.group + 2 == len(self._plan(visit.epoch).first_episode)
        return Visit(visit.epoch + 1, 0) if is_last else Visit(visit.epoch, visit.group + 1)

    @functools.cached_property
    def _plan(self) -> Callable[[int], _Plan]:
        return functools.lru_cache(maxsize=4)(self._make_plan)

    @functools.cached_property
    def _windows(self) -> Callable[[int, int], np.ndarray]:
        return functools.lru_cache(maxsize=8)(self._make_windows)

    def _make_plan(self, epoch: int) -> _Plan:
        num_windows = np.diff(self.first_window)
        episodes = np.random.default_rng((self.seed, epoch)).permutation(np.flatnonzero(num_windows))
        total_bytes = np.cumsum(self.num_bytes[episodes])
        bounds = [0]
        while (start := bounds[-1]) < len(episodes):
            before = int(total_bytes[start - 1]) if start else 0
            fitting = int(np.searchsorted(total_bytes, before + self.max_bytes, side="right"))
            bounds.append(min(max(fitting, start + 1), start + self.max_episodes, len(episodes)))
        places = np.append(0, np.cumsum(num_windows[episodes]))
        return _Plan(episodes, np.array(bounds), places[bounds])

    def _make_windows(self, epoch: int, group: int) -> np.ndarray:
        episodes = self.episodes(Visit(epoch, group))
        spans = zip(self.first_window[episodes].tolist(), self.first_window[episodes + 1].tolist())
        windows = np.concatenate([np.arange(first, end) for first, end in spans])
        return np.random.default_rng((self.seed, epoch, 1 + group)).permutation(windows)
