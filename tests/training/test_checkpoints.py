"""Checkpoints: snapshots, what is kept, other meshes, parameter folders, fine-tuning."""

import dataclasses
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.toy import StopAfter, ToyConfig, ToyPipeline, series, toy_config, train_toy
from vla_jax import config as configuration
from vla_jax.parameter_store import load_parameters, read_arrays, save_parameters
from vla_jax.policies.base import PretrainedPart
from vla_jax.run_directory import RunDirectory, verify_manifest
from vla_jax.sharding import MeshConfig
from vla_jax.training.checkpoint import Checkpoints, restore_frozen
from vla_jax.training.initialization import starting_parameters
from vla_jax.training.program import build_program
from vla_jax.types import InputError

STATISTICS = {"toy": {"count": 7}}


def program_on(config, data=1, fsdp=1, tensor=1):
    return build_program(
        config, MeshConfig(data=data, fsdp=fsdp, tensor=tensor).build(jax.devices()[: data * fsdp * tensor])
    )


def assert_same(ours, theirs):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


@pytest.fixture(scope="module")
def config():
    return toy_config()


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run")


def test_a_save_is_a_snapshot_that_later_steps_do_not_touch(config, run):
    config = dataclasses.replace(config, policy=ToyConfig(width=64, num_layers=4))
    program = program_on(config)
    state, frozen = program.initial({})
    frozen, batch = program.place_frozen(frozen), ToyPipeline(0, 8).batch(0)
    state, _ = program.step(state, frozen, batch)
    expected = jax.tree.map(jnp.copy, state)
    checkpoints = Checkpoints(run, keep=3)
    checkpoints.save(state, config, STATISTICS, next_step=1)
    for _ in range(20):
        state, _ = program.step(state, frozen, batch)
    checkpoints.wait()
    restored = checkpoints.restore(1, program.state)
    assert_same(restored.state, expected)
    assert restored.next_step == 1
    checkpoints.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "checkpoint"]


def test_the_last_steps_are_kept(config, run):
    program = program_on(config)
    state, _ = program.initial({})
    checkpoints = Checkpoints(run, keep=2)
    for step in (1, 2, 3, 4):
        checkpoints.save(state.replace(step=jnp.int32(step)), config, STATISTICS, next_step=step)
    checkpoints.close()
    assert run.committed_steps() == [3, 4]
    for step in (3, 4):
        verify_manifest(run.step(step))


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 4, 1), (2, 2, 2), (1, 1, 1)])
def test_a_checkpoint_restores_onto_another_mesh_bit_for_bit(config, run, sizes):
    saved_on = program_on(config, 1, 2, 2)
    state, _ = saved_on.initial({})
    checkpoints = Checkpoints(run, keep=1)
    checkpoints.save(state, config, STATISTICS, next_step=0)
    checkpoints.wait()
    target = program_on(config, *sizes)
    restored = checkpoints.restore(0, target.state).state
    checkpoints.close()
    assert_same(restored, state)
    for ours, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(target.state), strict=True):
        assert ours.sharding.is_equivalent_to(wanted.sharding, ours.ndim)


def test_a_run_goes_on_upon_another_mesh_with_the_same_losses(config, tmp_path):
    assert train_toy(config, tmp_path / "whole")
    assert not train_toy(config, tmp_path / "moved", preemption=StopAfter(8), devices=8)
    moved = dataclasses.replace(config, mesh=MeshConfig(data=1, fsdp=2))
    assert train_toy(moved, tmp_path / "moved", devices=2)
    assert series(tmp_path / "moved", "batch_digest") == series(tmp_path / "whole", "batch_digest")
    ours, theirs = (np.array(series(tmp_path / name, "loss")) for name in ("moved", "whole"))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_leftovers_of_an_interrupted_save_are_removed_at_the_start(config, run):
    leftover = run.checkpoints / "7.tmp"
    (leftover / "parameters").mkdir(parents=True)
    checkpoints = Checkpoints(run, keep=1)
    assert not leftover.exists()
    assert checkpoints.newest_good() is None


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert train_toy(toy_config(), folder)
    return folder


def test_parameters_load_whole_from_a_run(finished, config):
    stored, raw = (load_parameters(finished, weights=weights) for weights in ("ema", "raw"))
    shapes = program_on(config).structure.shapes()
    assert {path: array.shape for path, array in stored.parameters.items()} == {p: s.shape for p, s in shapes.items()}
    assert (stored.step, stored.weights, raw.weights) == (20, "ema", "raw")
    assert stored.statistics() == ToyPipeline(0, 8).statistics
    assert configuration.load(stored.config_file) == config
    assert not np.array_equal(stored.parameters["head/kernel"], raw.parameters["head/kernel"])
    np.testing.assert_array_equal(stored.parameters["encoder/kernel"], raw.parameters["encoder/kernel"])
    assert load_parameters(finished, step=15).step == 15
    with pytest.raises(InputError, match=r"no committed checkpoint of step 3; there are \[10, 15, 20\]"):
        load_parameters(finished, step=3)


def test_a_run_without_ema_gives_its_raw_weights(tmp_path):
    assert train_toy(toy_config(ema_decay=None, num_steps=2), tmp_path)
    assert load_parameters(tmp_path).weights == "raw"


def test_parameters_load_straight_into_their_shardings(finished, config):
    program = program_on(config, 2, 2, 2)
    loaded = load_parameters(finished, shardings=program.shardings).parameters
    assert {path: array.sharding for path, array in loaded.items()} == program.shardings


def test_a_parameter_folder_round_trips_bit_for_bit(tmp_path):
    parameters = {
        "a/0/kernel": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32),
        "a/scale": np.float32(2.5).reshape(()),
        "half": jnp.arange(5, dtype=jnp.bfloat16) / 3,
    }
    save_parameters(tmp_path / "folder", parameters, documents={"config.json": {"x": 1}})
    stored = load_parameters(tmp_path / "folder")
    assert_same(stored.parameters, {path: np.asarray(array) for path, array in parameters.items()})
    assert stored.step is None
    assert not (tmp_path / "folder.tmp").exists()
    with pytest.raises(InputError, match="step 3 was asked for, but this is no run"):
        load_parameters(tmp_path / "folder", step=3)
    with pytest.raises(InputError, match="neither a run"):
        load_parameters(tmp_path)


def test_frozen_parameters_lie_once_in_the_run(finished, config):
    program = program_on(config)
    _, frozen = program.initial({})
    assert_same(read_arrays(finished / "frozen" / "parameters"), frozen)
    for step in RunDirectory(finished).committed_steps():
        for folder in ("parameters", "ema", "optimizer"):
            assert not any("encoder" in path for path in read_arrays(finished / "checkpoints" / str(step) / folder))


# ---- what a fresh run starts from


def no_pretrained(part, shapes, *, shardings):
    raise AssertionError("nothing was named")


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_fine_tune_starts_from_another_run_with_a_fresh_optimizer(finished, config, tmp_path, as_folder):
    source = finished
    if as_folder:
        source = tmp_path / "folder"
        save_parameters(source, load_parameters(finished).parameters)
    tuned = dataclasses.replace(config, name="tuned", seed=1, allow_random_frozen=False, num_steps=3)
    program = program_on(tuned)
    given = starting_parameters(program, source, no_pretrained)
    state, frozen = program.initial(given)
    expected = load_parameters(finished, weights="ema").parameters
    assert_same({path: expected[path] for path in state.parameters}, state.parameters)
    assert_same({path: expected[path] for path in frozen}, frozen)
    assert int(state.step) == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.optimizer))
    assert train_toy(tuned, tmp_path / "tuned", given=lambda: given)
    assert_same(restore_frozen(RunDirectory(tmp_path / "tuned"), {p: frozen[p].sharding for p in frozen}), frozen)


def test_init_from_names_what_is_missing_or_of_another_shape(finished, config, tmp_path):
    parameters = load_parameters(finished).parameters
    program = program_on(config)
    without = {path: array for path, array in parameters.items() if path != "head/bias"}
    save_parameters(tmp_path / "missing", without)
    with pytest.raises(InputError, match="head/bias missing"):
        starting_parameters(program, tmp_path / "missing", no_pretrained)
    save_parameters(tmp_path / "wide", parameters | {"head/bias": np.zeros(9, np.float32)})
    with pytest.raises(InputError, match=r"head/bias is \[9\], expected \[4\]"):
        starting_parameters(program, tmp_path / "wide", no_pretrained)


def test_a_frozen_part_without_weights_is_refused(config):
    strict = dataclasses.replace(config, allow_random_frozen=False)
    with pytest.raises(InputError, match="frozen part encoder has no weights"):
        starting_parameters(program_on(strict), None, no_pretrained)
    assert starting_parameters(program_on(config), None, no_pretrained) == {}


def test_pretrained_parts_are_read_by_their_prefix(config):
    strict = dataclasses.replace(config, allow_random_frozen=False, policy=ToyConfig(weights="somewhere"))
    program = program_on(strict)

    def load_pretrained(part: PretrainedPart, shapes, *, shardings):
        assert part.path == "somewhere"
        wanted = {path for path in shapes if path.startswith(part.prefix + "/")}
        return {path: jnp.full(shapes[path].shape, 0.5) for path in wanted}

    _, frozen = program.initial(starting_parameters(program, None, load_pretrained))
    assert all(np.all(array == 0.5) for array in frozen.values())
    assert len(frozen) == 2
