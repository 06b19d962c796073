"""Writes RLDS datasets in TFDS layout: dataset_info.json, features.json, TFRecord shards. No TensorFlow.

Axes: time. An episode maps feature keys, e.g. `steps/observation/image_0`, to values: lists of encoded pictures, of
texts, or arrays [time, ...]; keys outside `steps/` hold one value.
"""

import dataclasses
import json
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
CLASSES = {"text": "text_feature.Text", "image": "image_feature.Image", "number": "tensor_feature.Tensor"}
TFDS_FEATURES = "tensorflow_datasets.core.features."


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
        return build_example({key: _values(key, value, self.features[key]) for key, value in episode.items()})

    def _feature_tree(self) -> dict[str, Any]:
        below = {key.removeprefix(STEPS): f for key, f in self.features.items() if key.startswith(STEPS)}
        beside = {key: f for key, f in self.features.items() if not key.startswith(STEPS)}
        tree = self._folder(beside)
        tree["featuresDict"]["features"]["steps"] = {
            "pythonClassName": TFDS_FEATURES + "dataset_feature.Dataset",
            "sequence": {"feature": self._folder(below), "length": "-1"},
        }
        return tree

    def _folder(self, features: dict[str, Feature]) -> dict[str, Any]:
        children: dict[str, Any] = {}
        groups: dict[str, dict[str, Feature]] = {}
        for key, feature in features.items():
            head, _, rest = key.partition("/")
            if rest:
                groups.setdefault(head, {})[rest] = feature
            else:
                children[head] = self._leaf(feature)
        children |= {head: self._folder(group) for head, group in groups.items()}
        return {"pythonClassName": TFDS_FEATURES + "features_dict.FeaturesDict", "featuresDict": {"features": children}}

    def _leaf(self, feature: Feature) -> dict[str, Any]:
        shape = {"dimensions": [str(length) for length in feature.shape]} if feature.shape else {}
        described = {"shape": shape, "dtype": feature.dtype}
        leaf: dict[str, Any] = {"pythonClassName": TFDS_FEATURES + CLASSES[feature.kind]}
        if feature.kind == "text":
            return leaf | {"text": {}}
        if feature.kind == "image":
            return leaf | {"image": described | {"encodingFormat": self.encoding}}
        return leaf | {"tensor": described | {"encoding": "none"}}


def _values(key: str, value: Any, feature: Feature) -> list[bytes] | np.ndarray:
    values = value if key.startswith(STEPS) else [value]
    if feature.kind == "number":
        return np.asarray(values, feature.dtype)
    return [item.encode(errors="surrogateescape") if isinstance(item, str) else bytes(item) for item in values]
