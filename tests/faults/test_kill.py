"""train.py killed with `kill -9` and started again gives, bit for bit, the run that nothing interrupted.

With dropout, augmentation, crops, a moving average and two datasets mixed. The same comparison must catch
restores that forget the data position, the rng, the moving average or the optimizer.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT, one_device
from tests.rlds_episodes import write_bridge, write_fractal
from vla_jax.parameter_store import read_arrays
from vla_jax.training.metrics import read_metrics

RECIPE = str(ROOT / "tests" / "faults" / "two_datasets.py")
NUM_STEPS, SAVE_EVERY, NUM_KILLS = 90, 4, 5
NAMES = ("loss_hex", "batch_digest", "grad_norm", "ema_norm")
DEADLINE_SECONDS = 180


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_bridge(root)
    write_fractal(root)
    return root


def start(run, data, *further, program="train.py") -> subprocess.Popen:
    command = [sys.executable, *program.split(), "--config", RECIPE, "--run-dir", str(run), "--data.root", str(data)]
    command += further
    environment = one_device() | {"PYTHONPATH": str(ROOT)}
    log = (run.parent / f"{run.name}.log").open("a")
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)


def finish(run, data, *further) -> int:
    return start(run, data, *further).wait(timeout=DEADLINE_SECONDS)


def go_on_for(num_steps, run, data, **options) -> None:
    """Starts the run again and kills it when it has logged so many more steps."""
    before = num_lines(run)
    process = start(run, data, **options)
    wait_until(lambda: num_lines(run) > before + num_steps, process)
    kill(process)


def all_lines(run) -> list[dict]:
    """Every line of a logged step, repeated ones too; a torn last line is none."""
    whole = (run / "metrics.jsonl").read_text().rpartition("\n")[0].splitlines()
    return [json.loads(line) for line in whole]


def mismatches(run, reference) -> list[tuple]:
    expected = {line["step"]: line for line in read_metrics(reference / "metrics.jsonl")}
    lines = [line for line in all_lines(run) if "step" in line]
    return [(line["step"], name) for line in lines for name in NAMES if line[name] != expected[line["step"]][name]]


def wait_until(condition, process) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)


def kill(process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def num_lines(run) -> int:
    return (run / "metrics.jsonl").read_bytes().count(b"\n") if (run / "metrics.jsonl").exists() else 0


def is_saving(run) -> bool:
    return any(run.joinpath("checkpoints").glob("*.tmp"))


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "reference"
    assert finish(run, data, "--checkpoint-every", str(NUM_STEPS)) == 0
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl")] == list(range(1, NUM_STEPS + 1))
    return run


@pytest.fixture(scope="module")
def killed(data, reference):
    """A run that was killed five times, the last time while a save was under way; and what stood there before."""
    run, generator = reference.parent / "killed", random.Random(0)
    for count in range(NUM_KILLS):
        process, before = start(run, data), num_lines(run)
        new_lines = generator.randint(2 * SAVE_EVERY + 2, 4 * SAVE_EVERY)
        wait_until(lambda before=before, new_lines=new_lines: num_lines(run) >= before + new_lines, process)
        if count == NUM_KILLS - 1:
            wait_until(lambda: is_saving(run), process)
        kill(process)
    caught_saving = is_saving(run)
    shutil.copytree(run, reference.parent / "stump")
    return run, caught_saving


def test_five_kills_change_no_loss_and_no_batch(data, reference, killed):
    run, caught_saving = killed
    assert finish(run, data) == 0
    assert caught_saving, "the last kill came when no save was under way"
    starts = [line["restored_step"] for line in all_lines(run) if line.get("event") == "start"]
    assert len(starts) == NUM_KILLS + 1
    assert sum(step > 0 for step in starts) >= 4, starts
    assert mismatches(run, reference) == []
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl")] == list(range(1, NUM_STEPS + 1))
    for folder in ("parameters", "ema", "optimizer", "progress"):
        ours, theirs = (read_arrays(place / "checkpoints" / str(NUM_STEPS) / folder) for place in (run, reference))
        assert {path: array.tobytes() for path, array in ours.items()} == {
            path: array.tobytes() for path, array in theirs.items()
        }


@pytest.mark.parametrize("fault", ["data_position", "rng", "ema", "optimizer"])
def test_a_restore_that_forgets_something_is_caught(data, reference, killed, tmp_path, fault):
    run = tmp_path / fault
    shutil.copytree(reference.parent / "stump", run)
    go_on_for(8, run, data, program=f"tests/faults/mutant_train.py {fault}")
    found = {name for _, name in mismatches(run, reference)}
    expected = {"data_position": "batch_digest", "rng": "loss_hex", "ema": "ema_norm", "optimizer": "loss_hex"}
    assert expected[fault] in found


def test_both_datasets_are_in_the_batches(reference):
    statistics = json.loads((reference / "checkpoints" / str(NUM_STEPS) / "dataset_statistics.json").read_text())
    assert set(statistics) == {"bridge_dataset", "fractal20220817_data"}


def test_sigterm_commits_the_last_step_and_the_same_command_goes_on(data, reference, tmp_path):
    run = tmp_path / "run"
    process = start(run, data)
    wait_until(lambda: num_lines(run) >= 7, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=DEADLINE_SECONDS) == 75
    last = all_lines(run)[-1]["step"]
    assert last < NUM_STEPS
    assert (run / "checkpoints" / str(last) / "MANIFEST.json").is_file()
    assert not is_saving(run)
    go_on_for(8, run, data)
    assert [line["restored_step"] for line in all_lines(run) if "event" in line] == [0, last]
    assert mismatches(run, reference) == []


def test_sigterm_before_the_first_step_exits_75(data, tmp_path):
    run = tmp_path / "run"
    process = start(run, data)
    wait_until((run / "config.json").exists, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=DEADLINE_SECONDS) == 75
