"""A disk that is full, or a folder that cannot be written: the run fails, what was saved before stays whole."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT, one_device
from tests.toy import toy_config, train_toy
from vla_jax.run_directory import RunDirectory, verify_manifest
from vla_jax.types import InputError

FULL_AFTER_STEP_5 = """
import resource, sys, time
from pathlib import Path
from flax import nnx
from tests.toy import ToyPipeline, toy_config, train_toy

nnx.set_graph_mode(False)
nnx.set_graph_updates(False)

class FillsTheDisk(ToyPipeline):
    def batch(self, step):
        if step == 7:
            while not (Path(sys.argv[1]) / "checkpoints" / "5").exists():
                time.sleep(0.01)
            resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, resource.RLIM_INFINITY))
        return super().batch(step)

train_toy(toy_config(log_every=100), Path(sys.argv[1]), pipeline=FillsTheDisk(42, 8))
"""


def test_a_full_disk_fails_the_run_and_spares_earlier_checkpoints(tmp_path):
    command = [sys.executable, "-c", FULL_AFTER_STEP_5, str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=one_device(), timeout=120)
    assert done.returncode == 1, done.stderr
    message = next(
        line for line in done.stderr.splitlines() if line.startswith("vla_jax") and "CheckpointError" in line
    )
    assert "checkpoints/10: could not be written" in message
    assert "intact checkpoints: [5]" in message
    run = RunDirectory(tmp_path / "run")
    assert [entry.name for entry in run.checkpoints.iterdir()] == ["5"]
    verify_manifest(run.step(5))
    assert train_toy(toy_config(), run.path), "the same command goes on once there is space"


def test_a_folder_that_cannot_hold_checkpoints_is_refused_at_the_start(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(InputError, match=r"checkpoints cannot be written there.*give another --run-dir"):
        train_toy(toy_config(), tmp_path)


def test_a_save_that_fails_is_reported_at_the_next_step(tmp_path, monkeypatch):
    from vla_jax.training import checkpoint

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "commit", fail)
    with pytest.raises(checkpoint.CheckpointError, match=r"checkpoints/5: could not be written.*No space left"):
        train_toy(toy_config(), tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == []
