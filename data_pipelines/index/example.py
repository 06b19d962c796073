"""The wire format of tf.train.Example, read and written without protobuf.

Example { Features features = 1 }   Features { map<string, Feature> feature = 1 }
Feature { BytesList | FloatList | Int64List = 1 | 2 | 3 }, each a list { repeated value = 1 }

Byte strings come back as (offset, length) into the buffer, so that pictures are never copied; so do lists of numbers,
unread, of the keys that are asked for so.
"""

import struct
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


class Spans(NamedTuple):
    """Where the byte strings of a BytesList lie in the buffer."""

    offset: np.ndarray
    length: np.ndarray


class Packed(NamedTuple):
    """Where an unread list of numbers lies in the buffer: float32 little-endian, or varints."""

    offset: int
    length: int
    is_float: bool


Value = Spans | Packed | np.ndarray
"""A feature: byte strings, float32 or int64, or unread numbers."""


def parse_example(data: bytes, wanted: Collection[str] | None = None, unread: Collection[str] = ()) -> dict[str, Value]:
    """Args: wanted: keys (None: all). unread: those of them whose numbers are given as Packed.

    Raises ValueError where `data` is not an Example.
    """
    features: dict[str, Value] = {}
    try:
        for _, start, end in _messages(data, 0, len(data)):
            for _, entry_start, entry_end in _messages(data, start, end):
                fields = {number: (begin, stop) for number, begin, stop in _messages(data, entry_start, entry_end)}
                begin, stop = fields.get(1, (0, 0))
                key = data[begin:stop].decode()
                if wanted is None or key in wanted:
                    features[key] = _parse_feature(data, *fields.get(2, (0, 0)), is_read=key not in unread)
    except (IndexError, UnicodeDecodeError, struct.error) as error:
        raise ValueError(f"not a tf.train.Example ({error})") from error
    return features


def _parse_feature(data: bytes, start: int, end: int, *, is_read: bool) -> Value:
    value: Value = np.zeros(0, np.float32)
    for number, list_start, list_end in _messages(data, start, end):
        if number == 1:
            value = _parse_bytes(data, list_start, list_end)
        elif number in (2, 3) and is_read:
            value = _parse_numbers(data, list_start, list_end, is_float=number == 2)
        elif number in (2, 3):
            value = _find_numbers(data, list_start, list_end, is_float=number == 2)
    return value


def _find_numbers(data: bytes, start: int, end: int, *, is_float: bool) -> Value:
    parts = list(_messages(data, start, end))
    if len(parts) != 1 or parts[0][2] != end:
        raise ValueError("not a tf.train.Example as TensorFlow writes it (a list of numbers is not packed)")
    return Packed(parts[0][1], end - parts[0][1], is_float)


def _parse_bytes(data: bytes, start: int, end: int) -> Spans:
    spans = [(item_start, item_end - item_start) for _, item_start, item_end in _messages(data, start, end)]
    array = np.array(spans, np.int64).reshape(-1, 2)
    return Spans(array[:, 0], array[:, 1])


def _parse_numbers(data: bytes, start: int, end: int, *, is_float: bool) -> np.ndarray:
    """Packed lists, as TensorFlow writes them, and the unpacked ones that the format also allows."""
    parts, position = [], start
    while position < end:
        tag, position = _varint(data, position)
        wire = tag & 7
        stop = position
        if wire == LENGTH:
            length, position = _varint(data, position)
            stop = position + length
        elif wire == FIXED32:
            stop = position + 4
        elif wire == VARINT:
            _, stop = _varint(data, position)
        if stop > end or wire not in (LENGTH, FIXED32 if is_float else VARINT):
            raise ValueError("not a tf.train.Example (a list of numbers is malformed)")
        chunk = np.frombuffer(data, np.uint8, stop - position, position)
        parts.append(np.frombuffer(chunk.tobytes(), "<f4") if is_float else unpack_varints(chunk))
        position = stop
    return np.concatenate(parts) if parts else np.zeros(0, np.float32 if is_float else np.int64)


def varint_ends(data: np.ndarray) -> np.ndarray:
    """int64: where each varint of uint8 `data` ends, after its last byte."""
    return np.flatnonzero(data < 0x80) + 1


def unpack_varints(data: np.ndarray) -> np.ndarray:
    """int64 values of consecutive varints in uint8 `data`, vectorised."""
    last = data < 0x80
    if last.all():
        return data.astype(np.int64)
    if not last[-1]:
        raise ValueError("not a tf.train.Example (a number is cut)")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() > 9:
        raise ValueError("not a tf.train.Example (a number is longer than 10 bytes)")
    place = np.arange(len(data)) - np.repeat(starts, ends - starts + 1)
    shifted = (data & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.add.reduceat(shifted, starts).view(np.int64)


def _messages(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field number, start, end) of each length-delimited field; other fields are stepped over."""
    position = start
    while position < end:
        tag, position = _varint(data, position)
        wire = tag & 7
        if wire == LENGTH:
            length, position = _varint(data, position)
            if position + length > end:
                raise ValueError("not a tf.train.Example (a field ends outside its message)")
            yield tag >> 3, position, position + length
            position += length
        elif wire == VARINT:
            _, position = _varint(data, position)
        elif wire in (FIXED32, FIXED64):
            position += 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"not a tf.train.Example (wire type {wire})")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = data[position]
    position += 1
    if value < 0x80:
        return value, position
    value, shift = value & 0x7F, 7
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("not a tf.train.Example (a number is longer than 10 bytes)")


# ---------------------------------------------------------------------------------------------


def build_example(features: dict[str, list[bytes] | np.ndarray]) -> bytes:
    """An Example of byte strings, float32 (any float) and int64 (any integer or bool) features."""
    entries = b"".join(
        _field(1, _field(1, key.encode()) + _field(2, _build_feature(value))) for key, value in sorted(features.items())
    )
    return _field(1, entries)


def _build_feature(value: list[bytes] | np.ndarray) -> bytes:
    if isinstance(value, list):
        return _field(1, b"".join(_field(1, item) for item in value))
    flat = np.asarray(value).reshape(-1)
    if np.issubdtype(flat.dtype, np.floating):
        return _field(2, _field(1, flat.astype("<f4").tobytes()))
    return _field(3, _field(1, b"".join(_build_varint(int(item) & (2**64 - 1)) for item in flat)))


def _field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | LENGTH]) + _build_varint(len(payload)) + payload


def _build_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
