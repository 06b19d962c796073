"""TFRecord framing: u64 length, u32 masked crc32c of the length, data, u32 masked crc32c of the data; little-endian.

Source: the format as TensorFlow documents it.
"""

import contextlib
import hashlib
import mmap
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

import google_crc32c

from data_pipelines.storage import Location, RemotePath, stamp
from vla_jax.types import InputError

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
RELEASED_BYTES = 1 << 24
"""Mapped pages that were read are let go of by so many: else a whole shard counts as this process's memory."""
LFS_POINTER = b"version https://git-lfs"


class Record(NamedTuple):
    offset: int
    """Of the data, from the start of the file, in bytes."""
    data: bytes
    framing: bytes
    """Its header and footer: the length of the data and both checksums."""


def masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read_records(path: Location) -> Iterator[Record]:
    """Every record, both checksums verified; InputError names the file, the record and the damage."""
    size = stamp(path).num_bytes
    if not size:
        return
    with open_bytes(path, size) as data:
        if data[: min(len(LFS_POINTER), size)] == LFS_POINTER:
            raise InputError(f"{path}: a Git LFS pointer, not the data; run `git lfs pull` in its repository")
        position, number, released = 0, 0, 0
        while position < size:
            if isinstance(data, mmap.mmap) and position - released >= RELEASED_BYTES:
                length = (position - released) // RELEASED_BYTES * RELEASED_BYTES
                data.madvise(mmap.MADV_DONTNEED, released, length)
                released += length
            yield (record := _read_record(data, position, f"{path}: record {number} at byte {position}"))
            position = record.offset + len(record.data) + FOOTER.size
            number += 1


class ReadAhead:
    """A remote file by slices whose starts never fall: it holds from the last start to the end of a block."""

    def __init__(self, path: RemotePath, num_bytes: int):
        self._num_bytes, self._blocks = num_bytes, path.blocks(num_bytes)
        self._start, self._held = 0, bytearray()

    def __len__(self) -> int:
        return self._num_bytes

    def __getitem__(self, span: slice) -> bytes:
        start, end, _ = span.indices(self._num_bytes)
        del self._held[: start - self._start]
        self._start = start
        while len(self._held) < end - start:
            self._held += next(self._blocks)
        return bytes(memoryview(self._held)[: end - start])

    def close(self) -> None:
        self._blocks.close()


Bytes = mmap.mmap | ReadAhead
"""Slices of it are bytes."""


@contextlib.contextmanager
def open_bytes(path: Location, size: int) -> Iterator[Bytes]:
    """Of a file that is not empty."""
    if isinstance(path, RemotePath):
        with contextlib.closing(ReadAhead(path, size)) as data:
            yield data
    else:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            yield mapped


def _read_record(data: Bytes, position: int, where: str) -> Record:
    start, advice = position + HEADER.size, "fetch the shard again"
    if start > len(data):
        raise InputError(f"{where}: truncated, {len(data) - position} of {HEADER.size} header bytes; {advice}")
    header = data[position:start]
    length, length_crc = HEADER.unpack(header)
    if masked_crc(header[:8]) != length_crc:
        raise InputError(f"{where}: the checksum (crc32c) of its length does not match; the shard is damaged, {advice}")
    end = start + length
    if end + FOOTER.size > len(data):
        raise InputError(f"{where}: truncated, {len(data) - start} bytes left of {length + FOOTER.size}; {advice}")
    payload, footer = data[start:end], data[end : end + FOOTER.size]
    if masked_crc(payload) != FOOTER.unpack(footer)[0]:
        raise InputError(f"{where}: the checksum (crc32c) of its data does not match; the shard is damaged, {advice}")
    return Record(start, payload, header + footer)


def write_records(stream: BinaryIO, records: Iterable[bytes]) -> None:
    for record in records:
        length = struct.pack("<Q", len(record))
        stream.write(length + FOOTER.pack(masked_crc(length)) + record + FOOTER.pack(masked_crc(record)))


class ContentDigest:
    """sha256 over the framing of every record, whose checksums stand for the data: one pass verifies and identifies.

    Accidental changes do not pass (32 bits a record); it is no defence against forged data.
    """

    def __init__(self):
        self._digest = hashlib.sha256()

    def add(self, record: Record) -> None:
        self._digest.update(record.framing)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def content_digest(path: Location) -> str:
    """InputError where the file is damaged."""
    digest = ContentDigest()
    for record in read_records(path):
        digest.add(record)
    return digest.hexdigest()
