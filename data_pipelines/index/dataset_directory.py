"""A dataset directory as TFDS lays it out: `dataset_info.json`, `features.json`, TFRecord shards of each split."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal

from data_pipelines.storage import Location
from vla_jax.types import InputError

FILE_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
MAX_NUMBERS = 100
"""Wider per-step numbers (embeddings, point clouds) stay out of the index; of pictures it has the ranges."""
SMALLEST_PICTURE = 32
"""Pixels a side from which a tensor counts as a picture (depth maps)."""
ENCODINGS = ("zlib", "bytes")
"""Of a tensor's little-endian bytes; plain ones are lists of numbers."""


@dataclasses.dataclass(frozen=True)
class Feature:
    """A leaf of features.json. Keys below `steps/` hold one value a step, others one an episode."""

    kind: Literal["number", "image", "array", "text", "left_out"]
    """`array`: a tensor of a picture's size. `text` of an integer dtype: code points, padded with 0."""
    shape: tuple[int, ...] = ()
    dtype: str = ""
    reason: str = ""
    """Why it is left out of the index."""
    encoding: str = ""
    """One of ENCODINGS where a tensor is stored as a byte string."""


@dataclasses.dataclass(frozen=True)
class Shard:
    path: Location
    num_records: int


@dataclasses.dataclass(frozen=True)
class DatasetDirectory:
    path: Location
    name: str
    version: str
    splits: dict[str, tuple[Shard, ...]]
    features: dict[str, Feature]

    def shards(self, split: str) -> tuple[Shard, ...]:
        if split not in self.splits:
            raise InputError(f"{self.path}/dataset_info.json: no split {split!r}; it has {sorted(self.splits)}")
        return self.splits[split]


def read_directory(path: Location) -> DatasetDirectory:
    if isinstance(path, Path) and not path.is_dir():
        raise InputError(
            f"{path}: no such dataset directory; expected dataset_info.json, features.json and TFRecord shards in it. "
            f"Check data.root and data.mixture: datasets lie in ROOT/NAME/VERSION"
        )
    info = _read_json(path / "dataset_info.json")
    try:
        name, version = str(info["name"]), str(info["version"])
        if (form := info.get("fileFormat", "tfrecord")) != "tfrecord":
            raise InputError(f"{path}/dataset_info.json: fileFormat is {form!r}; only 'tfrecord' is read")
        splits = {str(split["name"]): _shards(path, name, split) for split in info["splits"]}
    except (KeyError, IndexError, AttributeError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}/dataset_info.json: not as TFDS writes it ({error!r})") from error
    features: dict[str, Feature] = {}
    _gather(_read_json(path / "features.json"), "", features, path / "features.json")
    return DatasetDirectory(path, name, version, splits, features)


def _read_json(path: Location) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: missing or not readable JSON ({error}); copy the whole dataset again") from error


def _shards(path: Location, name: str, split: dict[str, Any]) -> tuple[Shard, ...]:
    lengths = [int(length) for length in split["shardLengths"]]
    template = split.get("filepathTemplate") or FILE_TEMPLATE
    shards = []
    for number, length in enumerate(lengths):
        file = template.format(
            DATASET=name,
            SPLIT=split["name"],
            FILEFORMAT="tfrecord",
            SHARD_X_OF_Y=f"{number:05d}-of-{len(lengths):05d}",
            SHARD_INDEX=f"{number:05d}",
            NUM_SHARDS=f"{len(lengths):05d}",
        )
        if Path(file).name != file:
            raise InputError(f"{path}/dataset_info.json: filepathTemplate {template!r} leaves the dataset directory")
        shards.append(Shard(path / file, length))
    return tuple(shards)


def _gather(node: Any, prefix: str, features: dict[str, Feature], file: Location) -> None:
    """Flattens features.json into slash-joined leaf keys."""
    try:
        if "featuresDict" in node:
            for key, child in node["featuresDict"].get("features", {}).items():
                _gather(child, f"{prefix}/{key}" if prefix else key, features, file)
        elif "sequence" in node and prefix == "steps":
            _gather(node["sequence"]["feature"], prefix, features, file)
        else:
            features[prefix] = _leaf(node, prefix)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{file}: {prefix or 'its root'} is not as TFDS writes it ({error!r})") from error


def _leaf(node: dict[str, Any], key: str) -> Feature:
    if "text" in node:
        return Feature("text")
    if "image" in node:
        return Feature("image", _shape(node["image"]), node["image"].get("dtype", "uint8"))
    if "tensor" not in node:
        return Feature("left_out", reason=f"{node.get('pythonClassName', 'its kind').rsplit('.', 1)[-1]} is not read")
    tensor = node["tensor"]
    shape, dtype = _shape(tensor), tensor["dtype"]
    if dtype in ("string", "object"):
        return Feature("text") if shape == () else Feature("left_out", reason="an array of strings")
    encoding = tensor.get("encoding") or "none"
    if encoding not in ("none", *ENCODINGS):
        return Feature("left_out", reason=f"encoded as {encoding}")
    encoding = "" if encoding == "none" else encoding
    if min(shape, default=1) < 0:
        return Feature("left_out", reason=f"shape {list(shape)}: of varying size")
    if math.prod(shape) <= MAX_NUMBERS:
        return Feature("number", shape, dtype, encoding=encoding)
    if len(shape) > 1 and min(shape[:2]) >= SMALLEST_PICTURE:
        return Feature("array", shape, dtype, encoding=encoding)
    if key.rpartition("/")[2] == "instruction" and dtype == "int32" and len(shape) == 1 and not encoding:
        return Feature("text", shape, dtype)  # language_table
    return Feature("left_out", reason=f"shape {list(shape)}: more than {MAX_NUMBERS} numbers, and no picture")


def _shape(node: dict[str, Any]) -> tuple[int, ...]:
    return tuple(int(length) for length in node.get("shape", {}).get("dimensions", ()))
