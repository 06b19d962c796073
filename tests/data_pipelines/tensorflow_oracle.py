"""Run in an environment that has TensorFlow: python tensorflow_oracle.py DATASET_FOLDER SPLIT CACHE [dlimp], with the
repository's root and this folder in PYTHONPATH.

Prints one JSON object: by name of a check, how many values were compared and how many differ. `NAME/VERSION` folders
are read by tensorflow_datasets (the oracle) and by our index, pipeline and stream.
"""

import dataclasses
import itertools
import json
import sys
from pathlib import Path

import jax
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from pipeline_setup import open_generated, requirements, tokenize_bytes
from trajectory_stream import expected_rows

from data_pipelines.compatibility.rlds import rlds_trajectories
from data_pipelines.compatibility.stream import open_stream
from data_pipelines.compatibility.trajectories import Trajectories
from data_pipelines.config import DataConfig
from data_pipelines.discovery import Dataset, find_dataset
from data_pipelines.index.dataset_directory import read_directory
from data_pipelines.index.shard_index import STEPS
from data_pipelines.index.shard_reader import read_range
from data_pipelines.index.sidecar import Index, open_index
from data_pipelines.pipeline import Pipeline
from data_pipelines.transforms.decode import Decode

BATCHES = 8


class Report(dict):
    def compare(self, check: str, ours: np.ndarray, theirs: np.ndarray) -> None:
        """Bit for bit, dtype and shape too."""
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        entry = self.setdefault(check, {"values": 0, "different": 0})
        entry["values"] += theirs.size
        if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
            entry["different"] += max(theirs.size, 1)
        elif ours.dtype.kind == "f":
            bits = f"u{ours.dtype.itemsize}"
            entry["different"] += int((ours.view(bits) != theirs.view(bits)).sum())
        else:
            entry["different"] += int((ours != theirs).sum())


def main(folder: Path, split: str, cache: Path, with_dlimp: bool) -> None:
    index = open_index(read_directory(folder), split, cache)
    builder = tfds.builder_from_directory(str(folder))
    encoded = builder.as_dataset(split=split, decoders={"steps": tfds.decode.SkipDecoding()})
    report = Report()
    for number, episode in enumerate(encoded.as_numpy_iterator()):
        compare_numbers(report, index, number, episode)
        compare_pictures(report, index, number, episode["steps"])
    size = next(feature.shape for feature in index.directory.features.values() if feature.kind == "image")[:2]
    dataset, needs = find_dataset(builder.name), requirements(normalization="gaussian", size=size)
    pipeline = open_generated(
        folder.parent.parent, mixture={dataset.spec.name: 1.0}, needs=needs, cache=cache, split=split
    )
    streams = {
        "stream": Trajectories(encoded, dataset),
        "stream that decodes": Trajectories(encoded.map(decoded(dataset, "INTEGER_ACCURATE")), dataset),
        "stream that decodes with the default dct_method": Trajectories(encoded.map(decoded(dataset, "")), dataset),
    }
    if with_dlimp:
        trajectories = rlds_trajectories(folder, split).traj_map(renamed).frame_map(marked)
        streams["dlimp stream"] = Trajectories(trajectories, of_renamed(dataset))
    for name, trajectories in streams.items():
        compare_batches(report, name, trajectories, pipeline)
    print(json.dumps(report))


def decoded(dataset: Dataset, dct_method: str):
    """A transform that gives the camera's pictures as pixels."""
    *folders, name = dataset.spec.cameras["primary"].split("/")

    def transform(episode: dict) -> dict:
        def decode(data):
            return tf.io.decode_jpeg(data, channels=3, dct_method=dct_method)

        node = episode["steps"]
        for part in folders:
            node = node[part]
        node[name] = tf.map_fn(decode, node[name], fn_output_signature=tf.uint8)
        return episode

    return transform


def renamed(trajectory: dict) -> dict:
    """A transform of a whole trajectory, as Octo's restructure: other keys, what is not needed left out."""
    seen = trajectory["observation"]
    return {
        "observation": {"image_primary": seen["image_0"], "proprio": seen["state"]},
        "task": {"language_instruction": trajectory["language_instruction"]},
        "action": tf.cast(trajectory["action"], tf.float32),
    }


def marked(frame: dict) -> dict:
    """A transform of frames."""
    return frame | {"dataset_name": tf.constant("bridge")}


def of_renamed(dataset: Dataset) -> Dataset:
    def standardize(raw: dict) -> dict:
        return dataset.standardize({"action": raw["action"], "observation/state": raw["observation/proprio"]})

    keys = {"numbers": ("action", "observation/proprio"), "languages": ("task/language_instruction",)}
    spec = dataclasses.replace(dataset.spec, cameras={"primary": "observation/image_primary"}, **keys)
    return Dataset(spec, standardize, {})


def compare_numbers(report: Report, index: Index, number: int, episode: dict) -> None:
    leaves = dict(leaves_of(episode))
    rows = slice(int(index.first_step[number]), int(index.first_step[number + 1]))
    for key, feature in index.tree["features"].items():
        theirs = leaves[key]
        if feature["kind"] == "number":
            column = index.column(key, "number")
            report.compare("numbers", column[rows] if key.startswith(STEPS) else column[number], theirs)
        elif feature["kind"] == "text":
            column = index.column(key, "text")
            ours = column[rows] if key.startswith(STEPS) else column[number : number + 1]
            texts = [index.texts[place].encode(errors="surrogateescape") for place in ours]
            report.compare("texts", np.array(texts, object), np.array(np.atleast_1d(theirs), object))


def compare_pictures(report: Report, index: Index, number: int, steps: dict) -> None:
    leaves = dict(leaves_of(steps))
    first, shard = int(index.first_step[number]), index.shards[int(index.episodes[number, 0])]
    for key, feature in index.tree["features"].items():
        if feature["kind"] != "image":
            continue
        spans = index.column(key, "image")
        for step, data in enumerate(leaves[key.removeprefix(STEPS)]):
            offset, length = map(int, spans[first + step])
            ours = Decode()(read_range(shard, offset, length), np.zeros((0,)))
            accurate = tf.io.decode_jpeg(data, dct_method="INTEGER_ACCURATE").numpy()
            report.compare("pictures", ours, accurate)
            report.compare("pictures with the default dct_method", ours, tf.io.decode_jpeg(data).numpy())


def compare_batches(report: Report, name: str, trajectories: Trajectories, pipeline: Pipeline) -> None:
    stream = open_stream(
        trajectories,
        DataConfig(root="", crop=None, pool_episodes=2),
        pipeline.assembler.requirements,
        tokenize_bytes,
        seed=5,
        batch_size=4,
        statistics=pipeline.statistics,
    )
    with stream.batches(0) as batches:
        drawn = list(itertools.islice(batches, BATCHES))
    for batch in drawn:
        for ours, theirs in zip(jax.tree.leaves(batch), jax.tree.leaves(expected_rows(pipeline, batch)), strict=True):
            report.compare(f"batches of the {name}", ours, theirs)
    with stream.batches(3) as batches:
        for ours, theirs in zip(jax.tree.leaves(next(batches)), jax.tree.leaves(drawn[3]), strict=True):
            report.compare(f"resume of the {name}", ours, theirs)


def leaves_of(tree: dict, prefix: str = ""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves_of(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4:] == ["dlimp"])
