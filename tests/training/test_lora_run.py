"""A run with adapters: what trains, what lies on disk, where it starts from, and how it is read again."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.toy import ToyConfig, ToyPipeline, toy_config, train_toy
from tests.training.test_training_program import weight_products
from vla_jax import config as configuration
from vla_jax.config import RunConfig
from vla_jax.nn.lora import LoraConfig
from vla_jax.parameter_store import array_paths, load_parameters, read_arrays, save_parameters
from vla_jax.run_directory import RunDirectory
from vla_jax.sharding import MeshConfig
from vla_jax.trained_policy import load_policy
from vla_jax.training.checkpoint import Checkpoints
from vla_jax.training.initialization import starting_parameters
from vla_jax.training.optimizer import OptimizerConfig
from vla_jax.training.program import build_program
from vla_jax.types import InputError

LORA = LoraConfig(
    targets=("encoder", "trunk/blocks/attention/(query|value)", "trunk/blocks/mlp/.*"),
    rank=2,
    alpha=4.0,
    trained=("head/.*",),
)
ADAPTED = (
    "encoder",
    *(f"trunk/blocks/{layer}" for layer in ("attention/query", "attention/value", "mlp/up", "mlp/down")),
)
TRAINABLE = {f"{layer}/{name}" for layer in ADAPTED for name in ("lora_a", "lora_b")} | {"head/kernel", "head/bias"}


def lora_config(**changes) -> RunConfig:
    optimizer = OptimizerConfig(peak_rate=1e-2, warmup_steps=4)
    policy = ToyConfig(width=64, dropout_rate=0.0)
    return toy_config(policy=policy, lora=LORA, optimizer=optimizer, num_steps=20, **changes)


def program_of(config, devices=1, **mesh):
    return build_program(config, MeshConfig(**mesh).build(jax.devices()[:devices]))


def act(config, parameters):
    """On a fixed observation, by the policy of `config`."""
    structure, observation = program_of(config).structure, ToyPipeline(0, 4).batch(99).observation
    return np.asarray(jax.jit(lambda parameters, seen: structure.merge(parameters).act(seen))(parameters, observation))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A finished run without adapters."""
    folder = tmp_path_factory.mktemp("base")
    assert train_toy(dataclasses.replace(lora_config(), lora=None), folder)
    return folder


@pytest.fixture(scope="module")
def adapted(base, tmp_path_factory):
    """A run of adapters that began with `base`, under bfloat16."""
    folder, config = tmp_path_factory.mktemp("adapted"), lora_config(compute_dtype="bfloat16")
    assert train_toy(config, folder, given=lambda: starting_parameters(program_of(config), base, None))
    return folder


def test_the_checkpoint_holds_what_trains_and_the_rest_lies_once_in_frozen(base, adapted):
    run = RunDirectory(adapted)
    step = run.step(20)
    assert set(array_paths(step / "parameters")) == set(array_paths(step / "ema")) == TRAINABLE
    of_optimizer = {path for path in array_paths(step / "optimizer") if "/mu/" in path or "/nu/" in path}
    assert len(of_optimizer) == 2 * len(TRAINABLE)
    assert {path.split("/mu/")[-1].split("/nu/")[-1] for path in of_optimizer} == TRAINABLE
    frozen = set(array_paths(run.frozen / "parameters"))
    assert not frozen & TRAINABLE
    assert frozen == {p for p in load_parameters(base).parameters if not p.startswith("head/")}


def test_a_checkpoint_of_adapters_is_a_small_share_of_a_whole_one(base, adapted):
    def size(folder):
        return sum(
            array.nbytes for item in ("parameters", "ema", "optimizer") for array in read_arrays(folder / item).values()
        )

    def on_disk(folder):
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())

    small, whole = RunDirectory(adapted).step(20), RunDirectory(base).step(20)
    trained = sum(array.nbytes for array in read_arrays(small / "parameters").values())
    assert size(small) == pytest.approx(4 * trained, rel=0.01)
    assert size(small) < size(whole) / 9
    assert on_disk(small) < on_disk(whole) / 4  # indices and documents weigh something at this size
    assert on_disk(RunDirectory(adapted).frozen) < on_disk(whole) / 2


def test_frozen_weights_are_those_of_the_source_and_adapters_trained(base, adapted):
    source, found = load_parameters(base).parameters, load_parameters(adapted, weights="raw").parameters
    for path in source.keys() - TRAINABLE:
        np.testing.assert_array_equal(found[path], source[path], err_msg=path)
    for path in TRAINABLE - source.keys():
        assert found[path].dtype == np.float32
        assert np.abs(found[path]).max() > 0, f"{path} did not move"


def test_under_bfloat16_adapters_learn_a_batch_with_float32_masters(base):
    config = dataclasses.replace(lora_config(compute_dtype="bfloat16"), num_steps=40)
    program, batch = program_of(config), ToyPipeline(0, config.batch_size).batch(0)
    assert {shape.dtype for shape in program.frozen.values()} == {np.dtype("bfloat16")}
    products = list(weight_products(jax.make_jaxpr(program.step)(program.state, program.frozen, batch).jaxpr))
    assert len(products) > 20
    assert {output.dtype for output in products} == {np.dtype("bfloat16")}
    state, frozen = program.initial(starting_parameters(program, base, None))
    frozen, losses = program.place_frozen(frozen), []
    for _ in range(40):
        state, metrics = program.step(state, frozen, batch)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4])
    kept = jax.tree.leaves((state.parameters, state.ema, state.optimizer))
    assert {leaf.dtype for leaf in kept if np.issubdtype(leaf.dtype, np.inexact)} == {np.dtype("float32")}
    # A float32 first moment that bfloat16 cannot hold: gradients are float32 as well.
    moment = next(leaf for leaf in jax.tree.leaves(state.optimizer) if leaf.ndim == 3)
    assert not np.array_equal(moment, moment.astype("bfloat16").astype("float32"))


def test_merged_parameters_act_as_the_adapted_policy(adapted):
    config = configuration.load(RunDirectory(adapted).step(20) / "config.json")
    bare, parameters = dataclasses.replace(config, lora=None), load_parameters(adapted).parameters
    expected, largest = act(config, parameters), np.abs(act(config, parameters)).max()
    np.testing.assert_allclose(act(bare, LORA.merge(parameters)), expected, atol=1e-5 * largest)
    dropped = {path: array for path, array in parameters.items() if "lora" not in path}
    assert np.abs(act(bare, dropped) - expected).max() > 1e-2 * largest


def test_a_run_of_adapters_goes_on_where_it_stopped(adapted):
    program = program_of(lora_config(), devices=4, data=2, fsdp=2)
    checkpoints = Checkpoints(RunDirectory(adapted), keep=3)
    restored = checkpoints.restore(20, program.state)
    checkpoints.close()
    expected = read_arrays(RunDirectory(adapted).step(20) / "parameters")
    assert restored.state.parameters.keys() == TRAINABLE
    for path, array in expected.items():
        np.testing.assert_array_equal(restored.state.parameters[path], array)
    assert restored.state.parameters["trunk/blocks/mlp/up/lora_a"].sharding.spec[1] == "fsdp"


def test_a_start_from_an_unadapted_run_draws_its_adapters_and_computes_the_same(base):
    config = lora_config()
    program = program_of(config)
    given = starting_parameters(program, base, None)
    assert not [path for path in given if "lora" in path]
    state, frozen = program.initial(given)
    expected = act(dataclasses.replace(config, lora=None), load_parameters(base).parameters)
    np.testing.assert_allclose(act(config, state.parameters | frozen), expected, rtol=1e-5, atol=1e-6)


def test_adapters_train_on_only_where_rank_scale_and_layers_are_the_same(adapted, caplog):
    same = starting_parameters(program_of(lora_config()), adapted, None)
    assert "encoder/lora_a" in same
    stored = load_parameters(adapted).parameters
    other = dataclasses.replace(LORA, alpha=5.0)
    with caplog.at_level("INFO"):
        merged = starting_parameters(program_of(dataclasses.replace(lora_config(), lora=other)), adapted, None)
    assert "its adapters are merged" in caplog.text
    assert "encoder/lora_a" not in merged
    np.testing.assert_array_equal(merged["encoder/kernel"], LORA.merge(stored)["encoder/kernel"])
    without = starting_parameters(program_of(dataclasses.replace(lora_config(), lora=None)), adapted, None)
    np.testing.assert_array_equal(without["encoder/kernel"], merged["encoder/kernel"])


def test_adapters_beside_a_configuration_without_them_are_refused(adapted, tmp_path):
    bare = dataclasses.replace(lora_config(), lora=None)
    parameters = load_parameters(adapted).parameters
    save_parameters(tmp_path / "mixed", parameters, documents={"config.json": configuration.to_json(bare)})
    with pytest.raises(InputError, match=r"lora is not set, yet .*lora_a lies beside it"):
        starting_parameters(program_of(bare), tmp_path / "mixed", None)
    with pytest.raises(InputError, match=r"lora is not set, yet .*lora_a lies beside it"):
        load_policy(tmp_path / "mixed")


def test_frozen_weights_of_an_adapted_run_may_not_stay_random():
    config = lora_config(allow_random_frozen=False)
    with pytest.raises(InputError, match=r"has no weights.*lora\.trained"):
        starting_parameters(program_of(config), None, None)


def test_the_configuration_makes_its_round_trip():
    config = lora_config()
    assert configuration.from_json(configuration.to_json(config)).lora == config.lora
