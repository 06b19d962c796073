"""The whole loop on the toy policy: trains, logs, saves, resumes, refuses."""

import dataclasses
import json
import threading

import jax
import jsonschema
import numpy as np
import pytest

from tests.toy import StopAfter, ToyPipeline, series, toy_config
from tests.toy import train_toy as train
from vla_jax.parameter_store import load_parameters
from vla_jax.run_directory import RunDirectory
from vla_jax.schemas import schema
from vla_jax.training.checkpoint import save_frozen
from vla_jax.training.loop import NonFiniteError
from vla_jax.training.metrics import read_metrics
from vla_jax.types import InputError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 20 steps that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train(toy_config(), folder)
    return folder


def test_the_loss_falls(whole):
    losses = [loss for (loss,) in series(whole, "loss")]
    assert len(losses) == 20
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_every_metrics_line_keeps_its_schema(whole):
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        jsonschema.validate(line, schema("metrics_line"))
    assert lines[0]["event"] == "start"
    assert lines[0]["restored_step"] == 0
    assert lines[1]["l1"] == lines[1]["loss"] == float.fromhex(lines[1]["loss_hex"])
    assert {"ema_norm", "num_replaced"} <= lines[1].keys()


def test_the_run_folder_holds_what_the_layout_says(whole):
    run = RunDirectory(whole)
    assert run.committed_steps() == [10, 15, 20]
    names = {entry.name for entry in run.step(20).iterdir()}
    assert {"parameters", "optimizer", "ema", "progress", "data_position.json", "config.json"} <= names
    assert {"dataset_statistics.json", "MANIFEST.json"} <= names
    jsonschema.validate(json.loads((run.step(20) / "MANIFEST.json").read_text()), schema("manifest"))
    assert json.loads((run.step(20) / "data_position.json").read_text()) == {"next_step": 20}
    environment = json.loads(run.environment.read_text())
    assert environment["packages"]["jax"] == jax.__version__
    assert environment["devices"]["platform"] == "cpu"


@pytest.mark.parametrize("stop", [3, 5, 13])
def test_a_preempted_run_goes_on_bit_for_bit(whole, tmp_path, stop):
    assert not train(toy_config(), tmp_path, preemption=StopAfter(stop))
    assert RunDirectory(tmp_path).committed_steps()[-1] == stop
    assert train(toy_config(), tmp_path)
    names = ("step", "loss_hex", "batch_digest", "grad_norm", "ema_norm")
    assert series(tmp_path, *names) == series(whole, *names)
    for weights in ("ema", "raw"):
        ours, theirs = (load_parameters(folder, weights=weights).parameters for folder in (tmp_path, whole))
        assert all(np.array_equal(ours[path], theirs[path]) for path in theirs)


def test_a_finished_run_does_nothing_more(whole):
    before = len(series(whole, "step"))
    assert train(toy_config(), whole)
    assert len(series(whole, "step")) == before


def test_a_finished_run_goes_on_when_more_steps_are_asked_for(whole, tmp_path):
    assert train(toy_config(num_steps=6), tmp_path)
    assert train(toy_config(num_steps=8), tmp_path)
    assert [step for (step,) in series(tmp_path, "step")] == list(range(1, 9))


def test_logging_less_often_changes_no_value(whole, tmp_path):
    assert train(toy_config(log_every=6, checkpoint_every=50), tmp_path)
    expected = [line for line in series(whole, "step", "loss_hex", "batch_digest") if line[0] in (6, 12, 18, 20)]
    assert series(tmp_path, "step", "loss_hex", "batch_digest") == expected
    assert RunDirectory(tmp_path).committed_steps() == [20]


@dataclasses.dataclass(frozen=True)
class Poisoned(ToyPipeline):
    poisoned_step: int = 7

    def batch(self, step):
        batch = super().batch(step)
        return batch.replace(action=batch.action * np.nan) if step == self.poisoned_step else batch


@pytest.mark.parametrize("log_every", [1, 50])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_never_saved(tmp_path, log_every):
    config = toy_config(log_every=log_every)
    with pytest.raises(NonFiniteError, match=r"step 8: the loss .* not finite .*nothing was saved"):
        train(config, tmp_path, pipeline=Poisoned(config.seed, config.batch_size))
    assert RunDirectory(tmp_path).committed_steps() == [5]
    with pytest.raises(NonFiniteError, match=f"in another --run-dir with --init-from {tmp_path}$"):
        train(config, tmp_path, pipeline=Poisoned(config.seed, config.batch_size))
    assert all(np.isfinite(array).all() for array in load_parameters(tmp_path).parameters.values())
    assert all(line["step"] <= 7 for line in read_metrics(tmp_path / "metrics.jsonl"))


def test_a_loss_that_is_not_finite_before_the_first_checkpoint_may_be_mended_in_place(tmp_path):
    config = toy_config()
    with pytest.raises(NonFiniteError, match=r"--optimizer.clip-norm helps: start again with it$"):
        train(config, tmp_path, pipeline=Poisoned(config.seed, config.batch_size, poisoned_step=2))


def test_other_data_are_refused_on_resume(tmp_path):
    first, second = ({name: {"key": f"{name}{key}"} for name in ("small", "large")} for key in (1, 2))
    assert not train(toy_config(), tmp_path, pipeline=ToyPipeline(42, 8, statistics=first), preemption=StopAfter(2))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    mixed = ToyPipeline(42, 8, statistics={"small": second["small"], "large": first["large"]})
    with pytest.raises(InputError, match=r"dataset small has key small1 in the run, small2 now.*--init-from"):
        train(toy_config(), tmp_path, pipeline=mixed)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert train(toy_config(), tmp_path, pipeline=ToyPipeline(42, 8, statistics=first))


def test_a_start_without_frozen_parameters_leaves_none_of_an_earlier_start(tmp_path):
    run = RunDirectory(tmp_path)
    save_frozen(run, {"encoder/kernel": np.zeros(3, np.float32)})
    assert run.frozen.exists()
    save_frozen(run, {})
    assert not run.frozen.exists()


class BrokenSource(ToyPipeline):
    def batches(self, start_step, rows):
        yield self.batch(0)
        raise RuntimeError("a shard vanished")


def test_an_error_of_the_data_reaches_the_caller_and_no_thread_is_left(tmp_path):
    before = set(threading.enumerate())
    with pytest.raises(RuntimeError, match="a shard vanished"):
        train(toy_config(), tmp_path, pipeline=BrokenSource(0, 8))
    left = {thread for thread in set(threading.enumerate()) - before if thread.name in ("loader", "checkpoint")}
    assert not left


def test_the_step_is_compiled_once(tmp_path, caplog):
    with jax.log_compiles():
        assert train(toy_config(num_steps=4), tmp_path, devices=2)
    assert sum("Compiling jit(train_step)" in record.getMessage() for record in caplog.records) == 1
