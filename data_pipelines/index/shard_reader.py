"""Reads byte ranges of the original shards, with a bounded number of open files."""

import functools
import os
from pathlib import Path

MAX_OPEN_FILES = 256


class _OpenFile:
    """Closes when its last reader lets go of it, so that eviction never cuts a read short."""

    def __init__(self, path: Path):
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self):
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


@functools.lru_cache(maxsize=MAX_OPEN_FILES)
def _open(path: Path) -> _OpenFile:
    return _OpenFile(path)


def read_range(path: Path, offset: int, length: int) -> bytes:
    """May give fewer bytes than asked, where the file is shorter than it was. Safe across threads."""
    file = _open(path)
    return os.pread(file.descriptor, length, offset)
