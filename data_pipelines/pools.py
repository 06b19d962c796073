"""The order of windows in access mode `episode`: those of a few episodes at a time, mixed among themselves.

Every epoch the episodes are permuted, and their windows dealt to lanes: each gets the same number (or one more), in the
order of the episodes, so that an episode is of one lane, or where the cut falls of two. A lane's episodes are cut into
groups, each of at most so many episodes and bytes (one episode at least); the windows of a group are shuffled. All of
it follows from (seed, epoch, lane, group), so that the window at any place is found without what came before.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

FEWEST_WINDOWS = 64
"""Of a lane: lanes differ by one window, and those of the shorter come so much more often."""
GROUPS_HELD = 3
"""Of a lane: the one before, the one that is drawn from, the one that is fetched."""
EPOCHS_KNOWN, GROUPS_KNOWN = 4, 8
"""Of a lane: plans and windows that are kept rather than made anew."""


class Visit(NamedTuple):
    epoch: int
    group: int
    lane: int = 0


class Drawn(NamedTuple):
    window: int
    visit: Visit


class _Plan(NamedTuple):
    """Of one epoch of a lane."""

    episodes: np.ndarray
    """int64[n]: those with windows in the lane, permuted."""
    windows: np.ndarray
    """int64[n, 2]: the first of theirs in the lane, and the one past the last."""
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
    num_lanes: int = 1
    """At most the number of windows; see `lanes_of`."""

    def drawn(self, lane: int, place: int) -> Drawn:
        epoch, place = divmod(place, self._end(lane) - self._end(lane - 1))
        first_place = self._plan(epoch, lane).first_place
        group = int(first_place.searchsorted(place, side="right")) - 1
        visit = Visit(epoch, group, lane)
        return Drawn(int(self._windows(visit)[place - int(first_place[group])]), visit)

    def episodes(self, visit: Visit) -> np.ndarray:
        return self._plan(visit.epoch, visit.lane).episodes[self._members(visit)]

    def after(self, visit: Visit) -> Visit:
        is_last = visit.group + 2 == len(self._plan(visit.epoch, visit.lane).first_episode)
        epoch, group = (visit.epoch + 1, 0) if is_last else (visit.epoch, visit.group + 1)
        return Visit(epoch, group, visit.lane)

    def _end(self, lane: int) -> int:
        """Of the lane's windows in the order of an epoch."""
        return int(self.first_window[-1]) * (lane + 1) // self.num_lanes

    def _members(self, visit: Visit) -> slice:
        first, end = self._plan(visit.epoch, visit.lane).first_episode[visit.group : visit.group + 2]
        return slice(first, end)

    @functools.cached_property
    def _permuted(self) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
        return functools.lru_cache(maxsize=EPOCHS_KNOWN)(self._permute)

    @functools.cached_property
    def _plan(self) -> Callable[[int, int], _Plan]:
        return functools.lru_cache(maxsize=EPOCHS_KNOWN * self.num_lanes)(self._make_plan)

    @functools.cached_property
    def _windows(self) -> Callable[[Visit], np.ndarray]:
        return functools.lru_cache(maxsize=GROUPS_KNOWN * self.num_lanes)(self._make_windows)

    def _permute(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The episodes with windows int64[n], and where in the epoch their windows begin and end int64[n + 1]."""
        num_windows = np.diff(self.first_window)
        episodes = np.random.default_rng((self.seed, epoch)).permutation(np.flatnonzero(num_windows))
        return episodes, np.append(0, np.cumsum(num_windows[episodes]))

    def _make_plan(self, epoch: int, lane: int) -> _Plan:
        episodes, places = self._permuted(epoch)
        first, end = self._end(lane - 1), self._end(lane)
        mine = slice(int(places.searchsorted(first, side="right")) - 1, int(places.searchsorted(end)))
        episodes, begins, ends = episodes[mine], places[:-1][mine], places[1:][mine]
        kept = np.stack([np.maximum(begins, first), np.minimum(ends, end)], axis=1)
        windows = self.first_window[episodes, None] + kept - begins[:, None]
        bounds = self._cut(self.num_bytes[episodes])
        return _Plan(episodes, windows, bounds, np.append(kept[:, 0], end)[bounds] - first)

    def _cut(self, num_bytes: np.ndarray) -> np.ndarray:
        """Where groups of episodes of such sizes begin and end, int64[group + 1]."""
        total_bytes, bounds = np.cumsum(num_bytes), [0]
        while (start := bounds[-1]) < len(num_bytes):
            before = int(total_bytes[start - 1]) if start else 0
            fitting = int(np.searchsorted(total_bytes, before + self.max_bytes, side="right"))
            bounds.append(min(max(fitting, start + 1), start + self.max_episodes, len(num_bytes)))
        return np.array(bounds)

    def _make_windows(self, visit: Visit) -> np.ndarray:
        spans = self._plan(visit.epoch, visit.lane).windows[self._members(visit)].tolist()
        windows = np.concatenate([np.arange(first, end) for first, end in spans])
        key = (self.seed, visit.epoch, 1 + visit.group) + ((visit.lane,) if visit.lane else ())
        return np.random.default_rng(key).permutation(windows)


def lanes_of(num_windows: int, wanted: int) -> int:
    """As many as wanted, or the largest part of them of which each has windows enough."""
    most = max(1, num_windows // FEWEST_WINDOWS)
    return max(number for number in range(1, min(wanted, most) + 1) if wanted % number == 0)
