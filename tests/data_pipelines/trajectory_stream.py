"""Trajectories as dlimp's from_rlds gives them, made without TensorFlow; what the pipeline makes of the same window."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from data_pipelines.assembly import Sample
from data_pipelines.index.dataset_directory import read_directory
from data_pipelines.index.example import Spans, parse_example
from data_pipelines.index.tfrecord import read_records
from data_pipelines.mixture import Draw
from data_pipelines.pipeline import Pipeline
from vla_jax.types import Batch


class NumpyStream:
    """`edit(number, trajectory)` stands for a user's transform."""

    def __init__(self, folder: Path, edit: Callable[[int, dict], dict] = lambda number, trajectory: trajectory):
        self.folder, self.edit = folder, edit

    def as_numpy_iterator(self) -> Iterator[dict]:
        directory = read_directory(self.folder)
        shards = directory.shards("train")
        for number, record in enumerate(record for shard in shards for record in read_records(shard.path)):
            yield self.edit(number, _nested(parse_example(record.data), record.data, directory.features))


def _nested(values, data, features) -> dict:
    tree: dict = {}
    for key, feature in features.items():
        if not key.startswith("steps/"):
            continue
        value = values[key]
        if isinstance(value, Spans):
            column = np.array([data[o : o + n] for o, n in zip(*value)], object)
        else:
            column = value.astype(feature.dtype or value.dtype).reshape(-1, *feature.shape)
        *folders, name = key.removeprefix("steps/").split("/")
        functools.reduce(lambda node, part: node.setdefault(part, {}), folders, tree)[name] = column
    return tree


def expected_rows(pipeline: Pipeline, batch: Batch) -> Batch:
    """What the pipeline of the same data and seed makes of the windows and sample indices of a batch."""
    source, rows = pipeline.sources[0], []
    for (_, episode, step), index in zip(batch.sample_ids, batch.sample_index):
        row = source.index.first_step[episode : episode + 1] + step
        window, mask = source.window(row, *source.trajectories.bounds(row))
        geometries = pipeline.variation.geometries(functools.partial(pipeline.mixture.generator, Draw.CROP, int(index)))
        text = source.text(int(row[0]), None)
        sample = Sample(0, int(row[0]), window[0], mask[0], 0, int(index), text, geometries=geometries)
        images = pipeline.assembler.empty_images(1)
        pipeline.assembler.read_images(sample, {key: out[0] for key, out in images.items()})
        rows.append(pipeline.assembler.batch([sample], images))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows)


def assert_equal(batch: Batch, expected: Batch) -> None:
    """Bit for bit, every leaf."""
    assert jax.tree.structure(batch) == jax.tree.structure(expected)
    for (path, leaf), other in zip(jax.tree.leaves_with_path(batch), jax.tree.leaves(expected)):
        assert leaf.dtype == other.dtype, path
        np.testing.assert_array_equal(leaf, other, err_msg=jax.tree_util.keystr(path))
