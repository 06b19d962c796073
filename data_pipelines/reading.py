"""How the bytes of pictures come: one range a picture, or whole episodes held in a pool.

Both give the same bytes; they differ in requests and memory. Safe across threads.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np

from data_pipelines.index.shard_reader import read_range
from data_pipelines.index.sidecar import Index
from data_pipelines.pools import EpisodeOrder, Visit
from data_pipelines.storage import MAX_REQUESTS

NUM_READERS = 8
"""Episodes of a dataset that are fetched at the same time."""
MOST_GROUPS = 16
Item = TypeVar("Item")
Result = TypeVar("Result")


class Reader(Protocol):
    """Of one dataset."""

    def visit(self, visit: Visit | None) -> None:
        """Says which windows are about to be read."""

    def read(self, row: int, offset: int, length: int) -> bytes:
        """Bytes of the shard in which the step lies; fewer where a local shard is shorter than it was."""

    def close(self) -> None: ...


class RangeReader:
    def __init__(self, index: Index):
        self._index = index
        self._shards = index.shards
        self._shard_of_episode = index.episodes[:, 0].tolist()

    def visit(self, visit: Visit | None) -> None:
        pass

    def read(self, row: int, offset: int, length: int) -> bytes:
        shard = self._shard_of_episode[int(np.searchsorted(self._index.first_step, row, side="right")) - 1]
        return read_range(self._shards[shard], offset, length, self._index.digest)

    def close(self) -> None:
        pass


class EpisodeReader:
    """Reads the records of a visited group of episodes, and of the group after it, in the background.

    Holds at most `max_bytes`: at least the groups before, at and after the last visit, each a third of it (more only
    where a single episode is larger); older ones while there is room.
    """

    def __init__(self, index: Index, order: EpisodeOrder, max_bytes: int):
        self._index, self._order, self._max_bytes = index, order, max_bytes
        self._ranges = RangeReader(index)
        self._lock = threading.Lock()
        self._held: dict[Visit, dict[int, Future[bytes]]] = {}

    def visit(self, visit: Visit | None) -> None:
        assert visit is not None
        with self._lock:
            for group in (visit, self._order.after(visit)):
                self._held[group] = self._held.pop(group, {}) or self._load(group)  # the latest is last
            self._forget()

    def read(self, row: int, offset: int, length: int) -> bytes:
        episode = int(np.searchsorted(self._index.first_step, row, side="right")) - 1
        with self._lock:
            record = next((group[episode] for group in self._held.values() if episode in group), None)
        if record is None:  # a replacement, which may be of any episode
            return self._ranges.read(row, offset, length)
        try:
            start = offset - int(self._index.episodes[episode, 1])
            return record.result()[start : start + length]
        except CancelledError:
            return self._ranges.read(row, offset, length)

    def close(self) -> None:
        with self._lock:
            for group in self._held.values():
                for record in group.values():
                    record.cancel()
            self._held.clear()

    def _load(self, visit: Visit) -> dict[int, Future[bytes]]:
        known = {episode: record for group in self._held.values() for episode, record in group.items()}
        threads = ThreadPoolExecutor(NUM_READERS, "episodes")
        group = {
            episode: known.get(episode) or threads.submit(self._read_record, episode)
            for episode in self._order.episodes(visit).tolist()
        }
        threads.shutdown(wait=False)  # they end with the last record
        return group

    def _read_record(self, episode: int) -> bytes:
        _, offset, length, first_row, _ = self._index.episodes[episode].tolist()
        return self._ranges.read(first_row, offset, length)

    def _forget(self) -> None:
        sizes = {visit: int(self._order.num_bytes[list(group)].sum()) for visit, group in self._held.items()}
        for visit in list(self._held)[:-3]:
            if sum(sizes.values()) <= self._max_bytes and len(sizes) <= MOST_GROUPS:
                return
            del self._held[visit], sizes[visit]


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
