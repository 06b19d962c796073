"""The tiny EF-VLA twin with the real pipeline: eight devices give the losses of one, over 50 steps in float32."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipelines.pipeline import open_pipeline
from tests.conftest import ROOT
from tests.rlds_episodes import write_bridge, write_fractal
from vla_jax import recipe
from vla_jax.sharding import MeshConfig, batch_sharding
from vla_jax.training.program import build_program

NUM_STEPS = 50


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_bridge(root)
    write_fractal(root)
    config = recipe.load(str(ROOT / "tests" / "faults" / "two_datasets.py"))
    assert config.compute_dtype == "float32"
    return dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(root)))


@pytest.fixture(scope="module")
def batches(config):
    requirements = config.policy.data_requirements()
    pipeline = open_pipeline(
        config.data,
        requirements,
        config.tokenizer.build(requirements.text_length),
        seed=config.seed,
        batch_size=config.batch_size,
        cache=Path(config.data.root) / "cache",
        quarantine=None,
    )
    return [pipeline.batch(step) for step in range(NUM_STEPS)]


def losses(config, batches, sizes):
    data, fsdp, tensor = sizes
    mesh = MeshConfig(data=data, fsdp=fsdp, tensor=tensor).build(jax.devices()[: data * fsdp * tensor])
    program = build_program(config, mesh)
    state, frozen = program.initial({})
    frozen, history = program.place_frozen(frozen), []
    for batch in batches:
        state, metrics = program.step(state, frozen, jax.device_put(batch, batch_sharding(mesh)))
        history.append(float(metrics["loss"]))
    return np.array(history)


def test_data_fsdp_and_tensor_parallel_losses_equal_those_of_one_device(config, batches):
    single = losses(config, batches, (1, 1, 1))
    np.testing.assert_allclose(losses(config, batches, (2, 2, 2)), single, rtol=1e-5)
    assert single[-10:].mean() < single[:10].mean()
