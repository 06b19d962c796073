"""A dataset directory as TFDS lays it out: `dataset_info.json`, `features.json`, TFRecord shards of each split."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal

from vla_jax.types import InputError

FILE_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
MAX_NUMBERS = 64
"""Wider per-step numbers (embeddings, depth maps) stay out of the index."""


@dataclasses.dataclass(frozen=True)
class Feature:
    """A leaf of features.json. Keys below `steps/` hold one value a step, others one an episode."""

    kind: Literal["number", "image", "text", "left_out"]
    shape: tuple[int, ...] = ()
    dtype: str = ""
    reason: str = ""
    """Why it is left out of the index."""


@dataclasses.dataclass(frozen=True)
class Shard:
    path: Path
    num_records: int


@dataclasses.dataclass(frozen=True)
class DatasetDirectory:
    path: Path
    name: str
    version: str
    splits: dict[str, tuple[Shard, ...]]
    features: dict[str, Feature]

    def shards(self, split: str) -> tuple[Shard, ...]:
        if split not in self.splits:
            raise InputError(f"{self.path}/dataset_info.json: no split {split!r}; it has {sorted(self.splits)}")
        return self.splits[split]


def read_directory(path: Path) -> DatasetDirectory:
    if not path.is_dir():
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


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: missing or not readable JSON ({error}); copy the whole dataset again") from error


def _shards(path: Path, name: str, split: dict[str, Any]) -> tuple[Shard, ...]:
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


def _gather(node: Any, prefix: str, features: dict[str, Feature], file: Path) -> None:
    """Flattens features.json into slash-joined leaf keys."""
    try:
        if "featuresDict" in node:
            for key, child in node["featuresDict"].get("features", {}).items():
                _gather(child, f"{prefix}/{key}" if prefix else key, features, file)
        elif "sequence" in node and prefix == "steps":
            _gather(node["sequence"]["feature"], prefix, features, file)
        else:
            features[prefix] = _leaf(node)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{file}: {prefix or 'its root'} is not as TFDS writes it ({error!r})") from error


def _leaf(node: dict[str, Any]) -> Feature:
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
    if tensor.get("encoding", "none") not in ("none", "", None):
        return Feature("left_out", reason=f"encoded as {tensor['encoding']}")
    if min(shape, default=1) < 0 or math.prod(shape) > MAX_NUMBERS:
        return Feature("left_out", reason=f"shape {list(shape)}: more than {MAX_NUMBERS} numbers or of varying size")
    return Feature("number", shape, dtype)


def _shape(node: dict[str, Any]) -> tuple[int, ...]:
    return tuple(int(length) for length in node.get("shape", {}).get("dimensions", ()))
