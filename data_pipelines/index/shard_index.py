"""Reads one shard once: where its pictures lie, its numbers and texts, every checksum verified.

Axes: episode, step (steps of all episodes in order).
"""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np

from data_pipelines.index.dataset_directory import Feature, Shard
from data_pipelines.index.example import Spans, Value, parse_example
from data_pipelines.index.tfrecord import Record, file_digest, read_records
from vla_jax.types import InputError

STEPS = "steps/"


@dataclasses.dataclass
class ShardIndex:
    """`columns` by feature key: pictures int64[step, 2] (offset in the file, length), numbers [step, ...], texts
    int32[step] into `texts`; keys outside `steps/` the same by episode.
    """

    record_spans: np.ndarray
    """int64[episode, 2]: offset and length of each record's data."""
    num_steps: np.ndarray
    """int64[episode]."""
    columns: dict[str, np.ndarray]
    texts: list[bytes]
    num_bytes: int
    sha256: str


def index_shard(shard: Shard, features: dict[str, Feature]) -> ShardIndex:
    """InputError where the shard is missing, damaged, or holds something other than features.json says."""
    path = shard.path
    if not path.is_file():
        raise InputError(
            f"{path}: missing, though dataset_info.json lists it with {shard.num_records} records; fetch it"
        )
    size = path.stat().st_size
    if not size and shard.num_records:
        raise InputError(f"{path}: empty (0 bytes), dataset_info.json says {shard.num_records} records; fetch it again")
    kept = {key: feature for key, feature in features.items() if feature.kind != "left_out"}
    parts: dict[str, list[np.ndarray]] = {key: [] for key in kept}
    spans, lengths = [], []
    texts: dict[bytes, int] = {}
    for number, record in enumerate(read_records(path)):
        episode = _Episode(path, number, record, texts)
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
        file_digest(path) if size else hashlib.sha256(b"").hexdigest(),
    )


@dataclasses.dataclass
class _Episode:
    path: Path
    number: int
    record: Record
    texts: dict[bytes, int]
    """Distinct texts of the shard -> their place, filled in as they are met."""

    def read(self, features: dict[str, Feature], parts: dict[str, list[np.ndarray]]) -> int:
        """Appends the episode's part of every column; gives its number of steps."""
        try:
            values = parse_example(self.record.data)
        except ValueError as error:
            raise InputError(
                f"{self.path}: record {self.number} is {error}; another format or a damaged copy"
            ) from error
        num_steps: int | None = None
        for key, feature in features.items():
            if key not in values:
                raise InputError(f"{self.path}: record {self.number} lacks {key!r}, which features.json declares")
            column = self._column(key, feature, values[key])
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

    def _column(self, key: str, feature: Feature, value: Value) -> np.ndarray:
        if isinstance(value, Spans) != (feature.kind != "number"):
            if not (isinstance(value, np.ndarray) and not value.size):  # an empty list has no type
                raise InputError(f"{self.path}: record {self.number}: {key!r} is not a {feature.kind}, as declared")
            return _empty(feature)
        if isinstance(value, Spans):
            if feature.kind == "image":
                return np.stack([value.offset + self.record.offset, value.length], axis=1)
            strings = [self.record.data[o : o + n] for o, n in zip(value.offset.tolist(), value.length.tolist())]
            return np.array([self.texts.setdefault(text, len(self.texts)) for text in strings], np.int32)
        try:
            return value.astype(feature.dtype).reshape(-1, *feature.shape)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{self.path}: record {self.number}: {key!r} has {value.size} numbers, "
                f"not a multiple of its shape {list(feature.shape)} ({feature.dtype}) in features.json"
            ) from error


def _empty(feature: Feature) -> np.ndarray:
    if feature.kind == "number":
        return np.zeros((0, *feature.shape), feature.dtype)
    return np.zeros((0, 2), np.int64) if feature.kind == "image" else np.zeros(0, np.int32)
