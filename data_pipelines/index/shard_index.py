"""Reads one shard once: where its pictures lie, its numbers and texts, every checksum verified.

Axes: episode, step (steps of all episodes in order).
"""

import contextlib
import dataclasses
import zlib

import numpy as np

from data_pipelines.index.dataset_directory import Feature, Shard
from data_pipelines.index.example import Packed, Spans, Value, parse_example, varint_ends
from data_pipelines.index.tfrecord import ContentDigest, Record, read_records
from data_pipelines.storage import Location, stamp
from vla_jax.types import InputError

STEPS = "steps/"


@dataclasses.dataclass
class ShardIndex:
    """`columns` by feature key: pictures and arrays int64[step, 2] (offset in the file, length in bytes), numbers
    [step, ...], texts int32[step] into `texts`; keys outside `steps/` the same by episode.
    """

    record_spans: np.ndarray
    """int64[episode, 2]: offset and length of each record's data."""
    num_steps: np.ndarray
    """int64[episode]."""
    columns: dict[str, np.ndarray]
    texts: list[bytes]
    num_bytes: int
    digest: str
    """`tfrecord.ContentDigest`."""


def index_shard(shard: Shard, features: dict[str, Feature]) -> ShardIndex:
    """InputError where the shard is missing, damaged, or holds something other than features.json says."""
    path, size = shard.path, None
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        size = stamp(path).num_bytes
    if size is None:
        raise InputError(
            f"{path}: missing, though dataset_info.json lists it with {shard.num_records} records; fetch it"
        )
    if not size and shard.num_records:
        raise InputError(f"{path}: empty (0 bytes), dataset_info.json says {shard.num_records} records; fetch it again")
    kept = {key: feature for key, feature in features.items() if feature.kind != "left_out"}
    parts: dict[str, list[np.ndarray]] = {key: [] for key in kept}
    spans, lengths, digest = [], [], ContentDigest()
    texts: dict[bytes, int] = {}
    for number, record in enumerate(read_records(path)):
        digest.add(record)
        episode = RecordReader(path, number, record, texts)
        lengths.append(episode.read(kept, parts))
        spans.append((record.offset, len(record.data)))
    if len(spans) != shard.num_records:
        raise InputError(
            f"{path}: {len(spans)} records, dataset_info.json says {shard.num_records} (shardLengths); "
            f"the shard or dataset_info.json is of another copy of the dataset"
        )
    return ShardIndex(
        np.array(spans, np.int64).reshape(-1, 2),
        np.array(lengths, np.int64),
        {key: np.concatenate(parts[key]) if parts[key] else _empty(kept[key]) for key in kept},
        list(texts),
        size,
        digest.hexdigest(),
    )


@dataclasses.dataclass
class RecordReader:
    path: Location
    number: int
    record: Record
    texts: dict[bytes, int]
    """Distinct texts of the shard -> their place, filled in as they are met."""

    def read(self, features: dict[str, Feature], parts: dict[str, list[np.ndarray]]) -> int:
        """Appends the episode's part of every column; gives its number of steps."""
        unread = {key for key, feature in features.items() if feature.kind == "array"}
        try:
            values = parse_example(self.record.data, features, unread)
        except ValueError as error:
            raise InputError(
                f"{self.path}: record {self.number} is {error}; another format or a damaged copy"
            ) from error
        num_steps: int | None = None
        for key, feature in features.items():
            if key not in values:
                raise InputError(f"{self.path}: record {self.number} lacks {key!r}, which features.json declares")
            column = self.column(key, feature, values[key])
            if key.startswith(STEPS):
                num_steps = len(column) if num_steps is None else num_steps
                if len(column) != num_steps:
                    raise InputError(
                        f"{self.path}: record {self.number}: {key!r} has {len(column)} steps, others {num_steps}"
                    )
            elif len(column) != 1:
                raise InputError(f"{self.path}: record {self.number}: {key!r} has {len(column)} values, 1 expected")
            parts[key].append(column)
        return num_steps or 0

    def column(self, key: str, feature: Feature, value: Value) -> np.ndarray:
        """The episode's part of a column; InputError where it is not what the feature says."""
        if isinstance(value, np.ndarray) and not value.size:  # an empty list has no type
            return _empty(feature)
        if isinstance(value, Spans) != _is_bytes(feature):
            raise InputError(f"{self.path}: record {self.number}: {key!r} is not a {feature.kind}, as declared")
        try:
            if isinstance(value, Packed):
                return self._ranges(value, feature)
            if isinstance(value, Spans):
                return self._strings(value, feature)
            numbers = value.astype(feature.dtype).reshape(-1, *feature.shape)
        except (TypeError, ValueError, zlib.error) as error:
            size = f"{value.size} numbers" if isinstance(value, np.ndarray) else f"{np.sum(value.length)} bytes"
            raise InputError(
                f"{self.path}: record {self.number}: {key!r} has {size}, "
                f"not a multiple of its shape {list(feature.shape)} ({feature.dtype}) in features.json: {error}"
            ) from error
        return self._texts([_of_code_points(row) for row in numbers]) if feature.kind == "text" else numbers

    def _strings(self, spans: Spans, feature: Feature) -> np.ndarray:
        if feature.kind in ("image", "array"):
            return np.stack([spans.offset + self.record.offset, spans.length], axis=1)
        strings = [self.record.data[o : o + n] for o, n in zip(spans.offset.tolist(), spans.length.tolist())]
        if feature.kind == "text":
            return self._texts(strings)
        plain = [zlib.decompress(string) if feature.encoding == "zlib" else string for string in strings]
        rows = [np.frombuffer(string, np.dtype(feature.dtype).newbyteorder("<")) for string in plain]
        return np.stack([row.reshape(feature.shape) for row in rows]).astype(feature.dtype)

    def _texts(self, strings: list[bytes]) -> np.ndarray:
        return np.array([self.texts.setdefault(text, len(self.texts)) for text in strings], np.int32)

    def _ranges(self, numbers: Packed, feature: Feature) -> np.ndarray:
        """Where each step's tensor lies, by steps of its size; varints are as long as they are."""
        size, data = int(np.prod(feature.shape)), np.frombuffer(self.record.data, np.uint8, *numbers[1::-1])
        ends = np.arange(4, numbers.length + 4, 4) if numbers.is_float else varint_ends(data)
        if not len(ends) or len(ends) % size or ends[-1] != numbers.length:
            raise ValueError(f"{len(ends)} numbers")
        bounds = np.append(0, ends[size - 1 :: size])
        return np.stack([bounds[:-1] + numbers.offset + self.record.offset, np.diff(bounds)], axis=1)


def _is_bytes(feature: Feature) -> bool:
    """Whether its values are byte strings on the wire."""
    return feature.kind == "image" or bool(feature.encoding) or (feature.kind == "text" and not feature.dtype)


def _of_code_points(numbers: np.ndarray) -> bytes:
    """UTF-8; a number that is no code point becomes a byte that is none either."""
    points = numbers[numbers != 0].tolist()
    return b"".join(chr(p).encode(errors="surrogatepass") if 0 < p < 0x110000 else b"\xff" for p in points)


def _empty(feature: Feature) -> np.ndarray:
    if feature.kind == "number":
        return np.zeros((0, *feature.shape), feature.dtype)
    return np.zeros(0, np.int32) if feature.kind == "text" else np.zeros((0, 2), np.int64)
