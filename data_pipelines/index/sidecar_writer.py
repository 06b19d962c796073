"""Writes a sidecar from the parts of its shards. Layout: `sidecar.py`. Axes: episode, step."""

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.cache import new_array, write_json
from data_pipelines.discovery import source_digest
from data_pipelines.index.dataset_directory import DatasetDirectory, Feature, Shard
from data_pipelines.index.shard_index import STEPS, index_shard
from data_pipelines.parts import Part, Work, part_digest
from data_pipelines.storage import Location, Stamp

SCHEMA_VERSION = 2


def index_work(directory: DatasetDirectory, split: str, stamps: list[Stamp], parts: Path) -> Work[Shard]:
    """Args: stamps: of the split's shards; parts: the folder of the folders of parts."""
    shards = directory.shards(split)
    names = [
        f"{number:05d}-{part_digest(address(shard.path), shard.num_records, *stamp)}"
        for number, (shard, stamp) in enumerate(zip(shards, stamps))
    ]
    made_from = (declared_digest(directory), SCHEMA_VERSION, source_digest(index_shard.__module__))
    return Work(
        parts / f"index-{part_digest(*made_from)}",
        dict(zip(names, shards)),
        functools.partial(make_part, features=directory.features),
        f"index {directory.name} {directory.version} {split}",
    )


def make_part(shard: Shard, features: dict[str, Feature]) -> Part:
    index = index_shard(shard, features)
    return {
        "record_spans": index.record_spans,
        "num_steps": index.num_steps,
        "texts": np.frombuffer(b"".join(index.texts), np.uint8),
        "text_lengths": np.array([len(text) for text in index.texts], np.int64),
        "num_bytes": np.array(index.num_bytes, np.int64),
        "digest": np.array(index.digest),
        **{f"columns/{key}": column for key, column in index.columns.items()},
    }


def write_sidecar(folder: Path, directory: DatasetDirectory, split: str, work: Work[Shard]) -> None:
    heads = [_Head.of(part) for part in work.parts()]
    num_steps = _joined([head.num_steps for head in heads], np.zeros(0, np.int64))
    spans = _joined([head.record_spans for head in heads], np.zeros((0, 2), np.int64))
    shard_numbers = np.repeat(np.arange(len(heads)), [len(head.num_steps) for head in heads])
    first_step = np.cumsum(num_steps) - num_steps
    np.save(folder / "episodes.npy", np.column_stack([shard_numbers, spans, first_step, num_steps]))
    kept = {key: feature for key, feature in sorted(directory.features.items()) if feature.kind != "left_out"}
    files = {key: f"{number:03d}.npy" for number, key in enumerate(kept)}
    texts = _write_columns(folder, {files[key]: (key, feature) for key, feature in kept.items()}, heads, work.parts())
    (folder / "texts.json").write_text(json.dumps([text.decode(errors="surrogateescape") for text in texts]))
    tree = {
        "schema_version": SCHEMA_VERSION,
        "dataset": directory.name,
        "version": directory.version,
        "split": split,
        "num_episodes": len(num_steps),
        "num_steps": int(num_steps.sum()),
        "shards": [
            {"file": shard.path.name, "records": shard.num_records, "bytes": head.num_bytes, "digest": head.digest}
            for shard, head in zip(directory.shards(split), heads)
        ],
        "declared": declared_digest(directory),
        "features": {key: _described(feature) | {"file": files[key]} for key, feature in kept.items()},
        "left_out": {key: f.reason for key, f in sorted(directory.features.items()) if f.kind == "left_out"},
    }
    write_json(folder / "index.json", tree)


def declared_digest(directory: DatasetDirectory) -> str:
    listing = json.dumps({key: dataclasses.astuple(feature) for key, feature in sorted(directory.features.items())})
    return hashlib.sha256(listing.encode()).hexdigest()


def address(path: Location) -> str:
    return str(path.resolve() if isinstance(path, Path) else path)


@dataclasses.dataclass(frozen=True)
class _Head:
    """The small arrays of a part."""

    num_steps: np.ndarray
    record_spans: np.ndarray
    texts: list[bytes]
    num_bytes: int
    digest: str

    @classmethod
    def of(cls, part: Part) -> "_Head":
        blob, ends = part["texts"].tobytes(), np.cumsum(part["text_lengths"]).tolist()
        texts = [blob[start:end] for start, end in zip([0, *ends], ends)]
        return cls(part["num_steps"], part["record_spans"], texts, int(part["num_bytes"]), str(part["digest"]))


def _write_columns(
    folder: Path, columns: dict[str, tuple[str, Feature]], heads: list[_Head], parts: Iterable[Part]
) -> list[bytes]:
    """One part in memory at a time. Gives the distinct texts. Args: columns: by file."""
    num_episodes = sum(len(head.num_steps) for head in heads)
    num_steps = sum(int(head.num_steps.sum()) for head in heads)
    texts: dict[bytes, int] = {}
    with contextlib.ExitStack() as stack:
        writers = {
            key: stack.enter_context(new_array(folder / file, num_steps if key.startswith(STEPS) else num_episodes))
            for file, (key, _) in columns.items()
        }
        for head, part in zip(heads, parts):
            places = np.array([texts.setdefault(text, len(texts)) for text in head.texts], np.int32)
            for key, feature in columns.values():
                column = part[f"columns/{key}"]
                writers[key].append(places[column] if feature.kind == "text" else column)
    return list(texts)


def _described(feature: Feature) -> dict[str, Any]:
    return {"kind": feature.kind, "shape": feature.shape, "dtype": feature.dtype, "encoding": feature.encoding}


def _joined(arrays: list[np.ndarray], empty: np.ndarray) -> np.ndarray:
    return np.concatenate(arrays) if arrays else empty
