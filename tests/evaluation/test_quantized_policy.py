"""A policy in int8: its actions, its size, and an adapted policy before it trained."""

import dataclasses

import numpy as np
import pytest
from flax import nnx

import eval as evaluation
from tests.convert.conftest import random_parameters, random_statistics, run_config, write_parameters
from vla_jax import config as configuration
from vla_jax import parameters as parameter_paths
from vla_jax.convert.parity import random_observations
from vla_jax.nn.lora import LoraConfig
from vla_jax.nn.quantization import QuantizationConfig
from vla_jax.parameter_store import save_parameters
from vla_jax.trained_policy import load_policy
from vla_jax.types import InputError


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return load_policy(write_parameters(tmp_path_factory.mktemp("parameters") / "ef_vla", run_config()))


@pytest.fixture(scope="module")
def observation(policy):
    return next(iter(random_observations(policy.config.policy.data_requirements(), policy.tokenizer.vocab_size)))


@pytest.fixture(scope="module")
def actions(policy, observation):
    return policy.act(observation)


@pytest.mark.parametrize("mode", ["weight_only", "dynamic"])
def test_a_quantised_policy_acts_much_as_before_from_a_quarter_of_the_bytes(policy, observation, actions, mode):
    options = evaluation.parse(["--checkpoint", "run", "--env", "tabletop:reach", "--out", "out", "--int8", mode])
    quantized = policy.quantized(QuantizationConfig(mode=options.int8))
    error = np.linalg.norm(quantized.act(observation) - actions) / np.linalg.norm(actions)
    assert 1e-5 < error < 0.03

    def bytes_of_blocks(policy):
        arrays = policy.stored.parameters.items()
        return sum(array.nbytes for path, array in arrays if "blocks/" in path and "kernel" in path)

    assert bytes_of_blocks(quantized) < 0.35 * bytes_of_blocks(policy)  # scales weigh something at widths of 24
    parameters = policy.stored.parameters
    heads = {path: parameters[path] for path in parameters if path.startswith(("head/", "clip/text/tok"))}
    assert len(heads) > 2
    for path, array in heads.items():
        np.testing.assert_array_equal(quantized.stored.parameters[path], array)


def test_other_layers_may_be_named(policy):
    quantized = policy.quantized(QuantizationConfig(mode="weight_only", targets=("trunk/blocks/mlp/.*",)))
    held = {path.rpartition("/")[0] for path in quantized.stored.parameters if path.endswith("kernel_int8")}
    assert held == {"trunk/blocks/mlp/up", "trunk/blocks/mlp/down"}
    with pytest.raises(InputError, match="no linear layer matches"):
        policy.quantized(QuantizationConfig(mode="weight_only", targets=("llm/.*",)))


def test_an_adapted_policy_before_training_is_its_base(tmp_path):
    """Read, its adapters are merged; before it trained they added nothing."""
    lora = LoraConfig(targets=("trunk/blocks/attention/.*",), rank=2, trained=("head/.*",))
    config = dataclasses.replace(run_config(), lora=lora)
    base = random_parameters(config)
    shapes = parameter_paths.abstract(lambda: config.build_policy(nnx.Rngs(0))).shapes()
    adapters = {path: np.ones(shape.shape, np.float32) for path, shape in shapes.items() if path not in base}
    documents = {"config.json": configuration.to_json(config), "dataset_statistics.json": random_statistics()}
    save_parameters(tmp_path / "run", base | adapters, documents=documents)
    policy = load_policy(tmp_path / "run")
    before = policy.untrained(seed=3)
    assert policy.stored.parameters.keys() == before.stored.parameters.keys() == base.keys()
    path = "trunk/blocks/attention/out/kernel"
    np.testing.assert_allclose(policy.stored.parameters[path], base[path] + 2 * lora.alpha / lora.rank, rtol=1e-5)
    np.testing.assert_array_equal(before.stored.parameters[path], base[path])
    assert not np.array_equal(before.stored.parameters["head/out/kernel"], base["head/out/kernel"])
