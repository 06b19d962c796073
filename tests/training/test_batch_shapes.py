"""The shapes of a batch, against a batch of the data pipeline."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipelines.pipeline import open_pipeline
from tests.rlds_episodes import write_bridge
from vla_jax import recipe
from vla_jax.training.batch_shapes import batch_shapes
from vla_jax.types import BoxRequirement, CameraRequirement, CoarseChunk, DepthRequirement


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_bridge(root, lengths=(6, 5))
    return root


def needs(**changes):
    policy = recipe.load("configs/ef_vla_bridge.py:tiny").policy
    return dataclasses.replace(policy.data_requirements(), **changes)


EVERYTHING = {
    "cameras": (
        CameraRequirement(slot="primary", height=16, width=24),
        CameraRequirement(slot="wrist", height=8, width=8),
    ),
    "goals": ("primary",),
    "pair_offset": 1,
    "coarse": CoarseChunk(horizon=3, stride=2),
    "boxes": BoxRequirement(count=5, missing="grid"),
    "depths": (DepthRequirement(slot="primary", height=6, width=10),),
}


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["plain", "everything"])
def test_shapes_and_types_are_those_of_a_batch(changes, data):
    requirements, size = needs(**changes), 3
    config = recipe.load("configs/ef_vla_bridge.py:tiny")
    length = requirements.text_length
    pipeline = open_pipeline(
        dataclasses.replace(config.data, root=str(data)),
        requirements,
        lambda texts: (np.zeros((len(texts), length), np.int32), np.ones((len(texts), length), bool)),
        seed=0,
        batch_size=size,
        cache=data / "cache",
        quarantine=None,
    )
    batch = next(iter(pipeline.batches(0, slice(0, size))))
    assert jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch) == batch_shapes(
        requirements, size
    )
