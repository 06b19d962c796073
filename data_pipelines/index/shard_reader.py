"""Reads byte ranges of the original shards: local ones with a bounded number of open files, others by request."""

import functools
import os
from pathlib import Path

from data_pipelines.storage import Location, RemotePath

MAX_OPEN_FILES = 256


class _OpenFile:
    """Closes when its last reader lets go of it, so that eviction never cuts a read short."""

    def __init__(self, path: Path):
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self):
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


@functools.lru_cache(maxsize=MAX_OPEN_FILES)
def _open(path: Path, index_digest: str) -> _OpenFile:
    return _OpenFile(path)


def read_range(path: Location, offset: int, length: int, index_digest: str = "") -> bytes:
    """May give fewer bytes than asked, where a local file is shorter than it was. Safe across threads.

    Files are opened anew for another `index_digest`: a shard that was replaced and indexed again is not read through
    the old file.
    """
    if isinstance(path, RemotePath):
        return path.read_range(offset, length)
    file = _open(path, index_digest)
    return os.pread(file.descriptor, length, offset)
