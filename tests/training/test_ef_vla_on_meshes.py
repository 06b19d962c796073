"""The tiny EF-VLA twin with the real pipeline: eight devices give the losses of one, over 50 steps in float32."""

import contextlib
import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipelines.pipeline import open_pipeline
from tests.conftest import ROOT
from tests.rlds_episodes import write_bridge, write_fractal
from vla_jax import recipe
from vla_jax.sharding import MeshConfig, process_rows
from vla_jax.training.loader import Loader
from vla_jax.training.program import build_program

NUM_STEPS = 50
ONE = MeshConfig(data=1)
MESHES = {
    "fsdp": MeshConfig(data=1, fsdp=8),
    "hsdp": MeshConfig(data=1, fsdp=4, data_slices=2),
    "tensor": MeshConfig(data=2, fsdp=2, tensor=2),
}
BATCH_SIZE = 8


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_bridge(root)
    write_fractal(root)
    config = recipe.load(str(ROOT / "tests" / "faults" / "two_datasets.py"))
    assert config.compute_dtype == "float32"
    data = dataclasses.replace(config.data, root=str(root))
    return dataclasses.replace(config, data=data, batch_size=BATCH_SIZE)


@pytest.fixture(scope="module")
def pipeline(config):
    requirements = config.policy.data_requirements()
    return open_pipeline(
        config.data,
        requirements,
        config.tokenizer.build(requirements.text_length),
        seed=config.seed,
        batch_size=config.batch_size,
        cache=Path(config.data.root) / "cache",
        quarantine=None,
    )


@pytest.fixture(scope="module")
def single(config, pipeline):
    return losses(config, pipeline, ONE)


def losses(config, pipeline, sizes):
    mesh = sizes.build(jax.devices()[:1] if sizes == ONE else None)
    program = build_program(config, mesh)
    state, frozen = program.initial({})
    frozen, history = program.place_frozen(frozen), []
    source = pipeline.batches(0, process_rows(mesh, BATCH_SIZE))
    with contextlib.closing(Loader(source, mesh, batch_size=BATCH_SIZE)) as loader:
        for _ in range(NUM_STEPS):
            state, metrics = program.step(state, frozen, next(loader))
            history.append(float(metrics["loss"]))
    return np.array(history)


@pytest.mark.parametrize("mesh", ["hsdp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("fsdp", "tensor"))])
def test_losses_on_eight_devices_equal_those_of_one(config, pipeline, single, mesh):
    np.testing.assert_allclose(losses(config, pipeline, MESHES[mesh]), single, rtol=1e-5)


def test_the_loss_falls(single):
    assert single[-10:].mean() < single[:10].mean()
