"""Walks the records of a damaged shard: what cannot be read is stepped over and told, and the walk goes on.

A record's length has its own checksum. Where the data's checksum fails, the next record begins where the length says;
where the length's fails, the bytes after it are searched for the next eight that match the checksum after them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data_pipelines.index.dataset_directory import Shard
from data_pipelines.index.tfrecord import FOOTER, HEADER, LFS_POINTER, Bytes, Record, masked_crc, open_bytes
from data_pipelines.storage import stamp

SEARCHED_BYTES = 1 << 20
"""At a time."""


class Damage(NamedTuple):
    code: str
    """One of the shard_... codes."""
    message: str


def walk(shard: Shard) -> Iterator[Record | Damage]:
    """Each record of the shard in order, or what is in its place."""
    listed = f"dataset_info.json lists {shard.num_records} records in it"
    try:
        size = stamp(shard.path).num_bytes
    except (FileNotFoundError, IsADirectoryError):
        yield Damage("shard_missing", f"missing; {listed}; fetch it")
        return
    if not size:
        if shard.num_records:
            yield Damage("shard_empty", f"0 bytes; {listed}; fetch it again")
        return
    with open_bytes(shard.path, size) as data:
        if data[: min(len(LFS_POINTER), size)] == LFS_POINTER:
            yield Damage("shard_lfs_pointer", "a Git LFS pointer, not the data; run `git lfs pull` in its repository")
        else:
            yield from _records(data, size)


def _records(data: Bytes, size: int) -> Iterator[Record | Damage]:
    position = 0
    while position < size:
        start = position + HEADER.size
        if start > size:
            yield Damage(
                "shard_truncated", f"ends within a record's header, {size - position} bytes after byte {position}"
            )
            return
        header = data[position:start]
        length, length_crc = HEADER.unpack(header)
        if masked_crc(header[:8]) != length_crc:
            following = _find_header(data, position + 1, size)
            lost = f"bytes {position} to {following or size} are lost"
            yield Damage("shard_corrupt", f"the checksum of a record's length fails at byte {position}; {lost}")
            if following is None:
                return
            position = following
            continue
        end = start + length
        if end + FOOTER.size > size:
            missing = end + FOOTER.size - size
            yield Damage("shard_truncated", f"ends {missing} bytes before the record does that begins at {position}")
            return
        yield _record(data, start, end, header)
        position = end + FOOTER.size


def _record(data: Bytes, start: int, end: int, header: bytes) -> Record | Damage:
    payload, footer = data[start:end], data[end : end + FOOTER.size]
    if masked_crc(payload) == FOOTER.unpack(footer)[0]:
        return Record(start, payload, header + footer)
    return Damage("shard_corrupt", f"the checksum (crc32c) of the record's data fails, bytes {start} to {end}")


def _find_header(data: Bytes, position: int, size: int) -> int | None:
    """Where the next bytes from `position` on are a length that its checksum confirms and that fits in the file."""
    while position + HEADER.size <= size:
        end = min(position + SEARCHED_BYTES, size)
        chunk = data[position:end]
        for place in _candidates(chunk, size - position):
            length, length_crc = HEADER.unpack_from(chunk, place)
            fits = position + place + HEADER.size + length + FOOTER.size <= size
            if fits and masked_crc(chunk[place : place + 8]) == length_crc:
                return position + place
        position = max(position + 1, end - HEADER.size + 1)
    return None


def _candidates(chunk: bytes, num_bytes: int) -> list[int]:
    """Places of a 64-bit length between 1 and `num_bytes`, of files below 4 GiB cheaply: its high half is 0."""
    place = np.arange(max(0, len(chunk) - HEADER.size + 1))
    values = np.frombuffer(chunk, np.uint8)
    low, high = (sum(values[place + o + i].astype(np.uint64) << np.uint64(8 * i) for i in range(4)) for o in (0, 4))
    lengths = low + (high << np.uint64(32))
    return np.flatnonzero((lengths > 0) & (lengths <= num_bytes)).tolist()
