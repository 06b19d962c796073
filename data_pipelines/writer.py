"""Writes RLDS datasets in TFDS layout: dataset_info.json, features.json, TFRecord shards. No TensorFlow.

Axes: time. An episode maps feature keys, e.g. `steps/observation/image_0`, to values: lists of encoded pictures, of
texts, or arrays [time, ...]; keys outside `steps/` hold one value. Of a Sequence, which the index leaves out, the
value of each step is an array [any, ...].
"""

import dataclasses
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_pipelines.cache import new_folder
from data_pipelines.index.dataset_directory import FILE_TEMPLATE, Feature
from data_pipelines.index.example import build_example
from data_pipelines.index.shard_index import STEPS
from data_pipelines.index.tfrecord import write_records

Episode = dict[str, Any]
TFDS_FEATURES = "tensorflow_datasets.core.features."
RAGGED = ("ragged_flat_values", "ragged_row_lengths_0")
"""What TFDS appends to the key of rows of varying length."""


@dataclasses.dataclass(frozen=True)
class Contents:
    """Of one shard."""

    num_episodes: int
    num_bytes: int
    """Of the records' data."""


@dataclasses.dataclass(frozen=True)
class DatasetWriter:
    name: str
    version: str
    features: dict[str, Feature]
    """By slash-joined key."""
    encoding: Literal["jpeg", "png"] = "jpeg"
    """Of pictures whose feature does not say it."""
    key_parts: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """Of keys with a part that has a slash of its own: `steps/action/future/xyz` -> steps, action, future/xyz."""

    def write(self, folder: Path, splits: dict[str, Iterable[Episode]], *, episodes_per_shard: int) -> None:
        """Writes `folder`, NAME/VERSION by convention, whole or not at all."""
        with new_folder(folder) as temporary:
            contents = {}
            for split, episodes in splits.items():
                records = [self.encode(episode) for episode in episodes]
                shards = [records[i : i + episodes_per_shard] for i in range(0, len(records), episodes_per_shard)]
                for number, shard in enumerate(shards):
                    with (temporary / self.shard_name(split, number, len(shards))).open("wb") as stream:
                        write_records(stream, shard)
                contents[split] = [Contents(len(shard), sum(map(len, shard))) for shard in shards]
            self.describe(temporary, contents)

    def shard_name(self, split: str, number: int, num_shards: int) -> str:
        return f"{self.name}-{split}.tfrecord-{number:05d}-of-{num_shards:05d}"

    def describe(self, folder: Path, splits: dict[str, list[Contents]]) -> None:
        """Writes dataset_info.json and features.json beside the shards of `folder`."""
        listed = [
            {
                "name": split,
                "filepathTemplate": FILE_TEMPLATE,
                "numBytes": str(sum(shard.num_bytes for shard in shards)),
                "shardLengths": [str(shard.num_episodes) for shard in shards],
            }
            for split, shards in splits.items()
        ]
        info = {"fileFormat": "tfrecord", "name": self.name, "splits": listed, "version": self.version}
        (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))
        (folder / "features.json").write_text(json.dumps(self._feature_tree(), indent=1))

    def encode(self, episode: Episode) -> bytes:
        """One tf.train.Example; every declared feature is given, no other, all of one length."""
        assert episode.keys() == self.features.keys(), sorted(episode.keys() ^ self.features.keys())
        lengths = {key: len(value) for key, value in episode.items() if key.startswith(STEPS)}
        assert len(set(lengths.values())) <= 1, lengths
        parts = [_stored(key, value, self.features[key]) for key, value in episode.items()]
        return build_example({key: values for part in parts for key, values in part.items()})

    def _feature_tree(self) -> dict[str, Any]:
        parts = {key: self.key_parts.get(key, tuple(key.split("/"))) for key in self.features}
        below = {parts[key][1:]: f for key, f in self.features.items() if key.startswith(STEPS)}
        beside = {parts[key]: f for key, f in self.features.items() if not key.startswith(STEPS)}
        tree = self._folder(beside)
        tree["featuresDict"]["features"]["steps"] = {
            "pythonClassName": TFDS_FEATURES + "dataset_feature.Dataset",
            "sequence": {"feature": self._folder(below), "length": "-1"},
        }
        return tree

    def _folder(self, features: dict[tuple[str, ...], Feature]) -> dict[str, Any]:
        children: dict[str, Any] = {}
        groups: dict[str, dict[tuple[str, ...], Feature]] = {}
        for (head, *others), feature in features.items():
            if rest := tuple(others):
                groups.setdefault(head, {})[rest] = feature
            else:
                children[head] = self._leaf(feature)
        children |= {head: self._folder(group) for head, group in groups.items()}
        return {"pythonClassName": TFDS_FEATURES + "features_dict.FeaturesDict", "featuresDict": {"features": children}}

    def _leaf(self, feature: Feature) -> dict[str, Any]:
        shape = {"dimensions": [str(length) for length in feature.shape]} if feature.shape else {}
        described = {"shape": shape, "dtype": feature.dtype}
        if feature.kind == "left_out":
            rows = {"feature": self._leaf(Feature("number", feature.shape, feature.dtype)), "length": "-1"}
            return {"pythonClassName": TFDS_FEATURES + "sequence_feature.Sequence", "sequence": rows}
        if feature.kind == "text" and not feature.dtype:
            return {"pythonClassName": TFDS_FEATURES + "text_feature.Text", "text": {}}
        if feature.kind == "image":
            image = described | {"encodingFormat": feature.encoding or self.encoding}
            return {"pythonClassName": TFDS_FEATURES + "image_feature.Image", "image": image}
        tensor = described | {"encoding": feature.encoding or "none"}
        return {"pythonClassName": TFDS_FEATURES + "tensor_feature.Tensor", "tensor": tensor}


Stored = list[bytes] | np.ndarray


def _stored(key: str, value: Any, feature: Feature) -> dict[str, Stored]:
    """What an Example holds of one feature."""
    if feature.kind == "left_out":
        lengths, rows = [len(row) for row in value], [np.asarray(row, feature.dtype) for row in value]
        return {f"{key}/{RAGGED[0]}": np.concatenate(rows), f"{key}/{RAGGED[1]}": np.array(lengths, np.int64)}
    return {key: _values(value if key.startswith(STEPS) else [value], feature)}


def _values(values: Any, feature: Feature) -> Stored:
    if feature.kind == "text" and feature.dtype:
        return np.array([_code_points(text, feature) for text in values])
    if feature.kind in ("number", "array"):
        numbers = np.asarray(values, feature.dtype)
        if not feature.encoding:
            return numbers
        strings = [row.astype(row.dtype.newbyteorder("<")).tobytes() for row in numbers]
        return [zlib.compress(string) for string in strings] if feature.encoding == "zlib" else strings
    return [item.encode(errors="surrogateescape") if isinstance(item, str) else bytes(item) for item in values]


def _code_points(text: str, feature: Feature) -> np.ndarray:
    points = np.zeros(feature.shape, feature.dtype)
    points[: len(text)] = [ord(letter) for letter in text]
    return points
