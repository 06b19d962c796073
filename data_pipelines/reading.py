"""How the bytes of pictures come: one range a picture, or whole episodes held in a pool.

Both give the same bytes; they differ in requests and memory. Safe across threads.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Protocol, TypeVar
from weakref import WeakValueDictionary

import numpy as np

from data_pipelines.index.shard_reader import read_range
from data_pipelines.index.sidecar import Index
from data_pipelines.pools import GROUPS_HELD, EpisodeOrder, Visit
from data_pipelines.storage import MAX_REQUESTS
from vla_jax.types import InputError

NUM_READERS = 8
"""Episodes of a dataset that are fetched at the same time."""
MOST_GROUPS = 16
"""Held of a lane."""
Records = dict[int, Future[bytes]]
"""By episode."""
Item = TypeVar("Item")
Result = TypeVar("Result")


class Reader(Protocol):
    """Of one dataset. InputError where a shard is gone or its store gives up."""

    def visit(self, visits: Sequence[Visit]) -> None:
        """Says of which groups of episodes windows are about to be read, in access mode `episode`."""

    def read(self, row: int, offset: int, length: int) -> bytes:
        """Bytes of the shard in which the step lies; fewer where a local shard is shorter than it was."""

    def close(self) -> None: ...


class RangeReader:
    def __init__(self, index: Index):
        self._index = index
        self._shards = index.shards
        self._shard_of_episode = index.episodes[:, 0].tolist()

    def visit(self, visits: Sequence[Visit]) -> None:
        pass

    def read(self, row: int, offset: int, length: int) -> bytes:
        shard = self._shard_of_episode[int(np.searchsorted(self._index.first_step, row, side="right")) - 1]
        try:
            return read_range(self._shards[shard], offset, length, self._index.digest)
        except FileNotFoundError as error:
            raise InputError(
                f"{self._shards[shard]}: missing, though it was there when its index was opened; bring it back, then "
                f"start again"
            ) from error

    def close(self) -> None:
        pass


class EpisodeReader:
    """Reads the records of visited groups of episodes, and of the groups after them, in the background.

    Each lane that is visited holds at most its part of `max_bytes`, which is of all lanes: at least the groups before,
    at and after its last visit, each a third of it (more only where a single episode is larger), and all from which
    one batch draws; older ones while there is room.
    """

    def __init__(self, index: Index, order: EpisodeOrder, max_bytes: int):
        self._index, self._order = index, order
        self._lane_bytes = max_bytes // order.num_lanes
        self._ranges = RangeReader(index)
        self._lock = threading.Lock()
        self._held: dict[int, dict[Visit, Records]] = {}
        """By lane."""
        self._records: WeakValueDictionary[int, Future[bytes]] = WeakValueDictionary()
        """By episode: those of the groups that are held."""

    def visit(self, visits: Sequence[Visit]) -> None:
        threads = ThreadPoolExecutor(NUM_READERS, "episodes")
        with self._lock:
            wanted = {
                visit: self._order.episodes(visit).tolist() for visit in (*visits, *map(self._order.after, visits))
            }
            known = {episode: self._records.get(episode) for group in wanted.values() for episode in group}
            for lane in {visit.lane for visit in visits}:
                held = self._held.setdefault(lane, {})
                self._forget(held, {visit: group for visit, group in wanted.items() if visit.lane == lane})
            for visit, group in wanted.items():
                held = self._held[visit.lane]
                held[visit] = held.pop(visit, {}) or self._load(group, threads)  # the latest is last
            del known  # till here, lest what is wanted again is forgotten and read again
        threads.shutdown(wait=False)  # they end with the last record

    def read(self, row: int, offset: int, length: int) -> bytes:
        episode = int(np.searchsorted(self._index.first_step, row, side="right")) - 1
        with self._lock:
            record = self._records.get(episode)
        if record is None:  # a replacement, which may be of any episode
            return self._ranges.read(row, offset, length)
        try:
            start = offset - int(self._index.episodes[episode, 1])
            return record.result()[start : start + length]
        except CancelledError:
            return self._ranges.read(row, offset, length)

    def close(self) -> None:
        with self._lock:
            for record in self._records.values():
                record.cancel()
            self._held.clear()
            self._records.clear()

    def _load(self, episodes: list[int], threads: ThreadPoolExecutor) -> Records:
        group = {
            episode: self._records.get(episode) or threads.submit(self._read_record, episode) for episode in episodes
        }
        self._records.update(group)
        return group

    def _read_record(self, episode: int) -> bytes:
        _, offset, length, first_row, _ = self._index.episodes[episode].tolist()
        return self._ranges.read(first_row, offset, length)

    def _forget(self, held: dict[Visit, Records], wanted: dict[Visit, list[int]]) -> None:
        """Of a lane, so that there is room for what is wanted."""
        older = [visit for visit in held if visit not in wanted]
        groups = {visit: list(held[visit]) for visit in older} | wanted
        sizes = {visit: int(self._order.num_bytes[group].sum()) for visit, group in groups.items()}
        for visit in older[: max(0, len(groups) - GROUPS_HELD)]:
            if sum(sizes.values()) <= self._lane_bytes and len(sizes) <= MOST_GROUPS:
                return
            del held[visit], sizes[visit]


def one_by_one(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """For local files."""
    return [work(item) for item in items]


def together(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """In threads of their own, so that requests to a remote store overlap."""
    threads = ThreadPoolExecutor(MAX_REQUESTS, "samples")
    try:
        return list(threads.map(work, items))
    finally:
        threads.shutdown(cancel_futures=True)
