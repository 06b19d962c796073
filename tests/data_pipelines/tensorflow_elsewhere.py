"""Run like tensorflow_oracle.py: the stream comes from a process of its own, and TensorFlow is not imported here.

Prints one JSON object: the modules of this process that should not be there, and how many leaves differ.
"""

import functools
import itertools
import json
import sys
from pathlib import Path

import jax
import numpy as np
from pipeline_setup import open_generated, requirements, tokenize_bytes
from trajectory_stream import expected_rows

from data_pipelines.compatibility.process import SeparateProcess
from data_pipelines.compatibility.stream import open_stream
from data_pipelines.compatibility.trajectories import Trajectories
from data_pipelines.config import DataConfig
from data_pipelines.discovery import find_dataset


def trajectories(folder: Path, split: str):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    assert not tf.config.get_visible_devices("GPU")
    skip = {"steps": tfds.decode.SkipDecoding()}
    return tfds.builder_from_directory(str(folder)).as_dataset(split=split, decoders=skip)


def main(folder: Path, split: str, cache: Path) -> None:
    needs, dataset = requirements(normalization="gaussian"), find_dataset(folder.parent.name)
    pipeline = open_generated(
        folder.parent.parent, mixture={dataset.spec.name: 1.0}, needs=needs, cache=cache, split=split
    )
    elements = SeparateProcess(functools.partial(trajectories, folder, split))
    data = DataConfig(root="", crop=None, pool_episodes=2)
    arguments = {"seed": 5, "batch_size": 4, "statistics": pipeline.statistics}
    stream = open_stream(Trajectories(elements, dataset), data, needs, tokenize_bytes, **arguments)
    different = leaves = 0
    with stream.batches(0) as batches:
        for batch in itertools.islice(batches, 6):
            for ours, theirs in zip(jax.tree.leaves(batch), jax.tree.leaves(expected_rows(pipeline, batch))):
                leaves, different = leaves + 1, different + (not np.array_equal(ours, theirs))
    here = [name for name in ("tensorflow", "tensorflow_datasets", "dlimp") if name in sys.modules]
    print(json.dumps({"imported_here": here, "leaves": leaves, "different": different}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
