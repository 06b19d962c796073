"""TFRecord framing: u64 length, u32 masked crc32c of the length, data, u32 masked crc32c of the data; little-endian.

Source: the format as TensorFlow documents it.
"""

import hashlib
import mmap
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import google_crc32c

from vla_jax.types import InputError

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
LFS_POINTER = b"version https://git-lfs"


class Record(NamedTuple):
    offset: int
    """Of the data, from the start of the file, in bytes."""
    data: bytes


def masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read_records(path: Path) -> Iterator[Record]:
    """Every record, both checksums verified; InputError names the file, the record and the damage."""
    size = path.stat().st_size
    if not size:
        return
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[: len(LFS_POINTER)] == LFS_POINTER:
            raise InputError(f"{path}: a Git LFS pointer, not the data; run `git lfs pull` in its repository")
        position, number = 0, 0
        while position < size:
            yield (record := _read_record(data, position, f"{path}: record {number} at byte {position}"))
            position = record.offset + len(record.data) + FOOTER.size
            number += 1


def _read_record(data: mmap.mmap, position: int, where: str) -> Record:
    start, advice = position + HEADER.size, "fetch the shard again"
    if start > len(data):
        raise InputError(f"{where}: truncated, {len(data) - position} of {HEADER.size} header bytes; {advice}")
    length, length_crc = HEADER.unpack(data[position:start])
    if masked_crc(data[position : position + 8]) != length_crc:
        raise InputError(f"{where}: the checksum (crc32c) of its length does not match; the shard is damaged, {advice}")
    end = start + length
    if end + FOOTER.size > len(data):
        raise InputError(f"{where}: truncated, {len(data) - start} bytes left of {length + FOOTER.size}; {advice}")
    payload = data[start:end]
    if masked_crc(payload) != FOOTER.unpack(data[end : end + FOOTER.size])[0]:
        raise InputError(f"{where}: the checksum (crc32c) of its data does not match; the shard is damaged, {advice}")
    return Record(start, payload)


def write_records(stream: BinaryIO, records: Iterable[bytes]) -> None:
    for record in records:
        length = struct.pack("<Q", len(record))
        stream.write(length + FOOTER.pack(masked_crc(length)) + record + FOOTER.pack(masked_crc(record)))


def file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
