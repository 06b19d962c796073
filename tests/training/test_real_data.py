"""The tiny EF-VLA twin learns on real robot data."""

import subprocess
import sys

import numpy as np

from tests.conftest import ROOT, one_device
from vla_jax.run_directory import RunDirectory
from vla_jax.training.metrics import read_metrics

NUM_STEPS = 40


def test_the_loss_falls_on_the_real_bridge_sample(shared_data, tmp_path):
    run = RunDirectory(tmp_path / "run")
    options = ["--config", "configs/ef_vla_bridge.py:tiny", "--data.root", shared_data, "--run-dir", run.path]
    options += ["--num-steps", NUM_STEPS, "--checkpoint-every", NUM_STEPS]
    subprocess.run(
        [sys.executable, "train.py", *map(str, options)], cwd=ROOT, check=True, env=one_device(), timeout=500
    )
    lines = read_metrics(run.metrics)
    losses = np.array([line["loss"] for line in lines])
    assert [line["step"] for line in lines] == list(range(1, NUM_STEPS + 1))
    assert losses[-10:].mean() < 0.75 * losses[:5].mean(), losses
    assert lines[-1]["num_replaced"] == 0
    assert run.committed_steps() == [NUM_STEPS]
