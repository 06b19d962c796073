"""Two processes make one run: the batches and losses of one process, one checkpoint, one stop."""

import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT, one_device
from tests.toy import series, toy_config, train_toy
from vla_jax.run_directory import RunDirectory

RUN = """
import sys, time
from pathlib import Path
from flax import nnx
from tests.toy import ToyPipeline, toy_config, train_toy
from vla_jax import accelerator, config
from vla_jax.training.preemption import EXIT_CODE, Preemption

class Slow(ToyPipeline):
    def batch(self, step):
        time.sleep(0.1)
        return super().batch(step)

nnx.set_graph_mode(False)
nnx.set_graph_updates(False)
config.OWN_PACKAGES += ("tests.",)
accelerator.choose_platform()
accelerator.join_processes()
with accelerator.first_process_first("data"):
    pipeline = Slow(42, 8)
with Preemption() as preemption:
    done = train_toy(toy_config(num_steps=40), Path(sys.argv[1]), pipeline=pipeline, preemption=preemption, devices=2)
sys.exit(0 if done else EXIT_CODE)
"""


def test_two_processes_stop_at_the_same_step_and_one_process_goes_on(tmp_path):
    run, config = RunDirectory(tmp_path / "run"), toy_config(num_steps=40)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        together = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free.getsockname()[1]}", "JAX_NUM_PROCESSES": "2"}
    processes = []
    for number in ("0", "1"):
        environment = one_device() | together | {"JAX_PROCESS_ID": number}
        command = [sys.executable, "-c", RUN, str(run.path)]
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL))
    while not run.metrics.exists() or run.metrics.read_bytes().count(b"\n") < 7:
        assert processes[0].poll() is None
        time.sleep(0.02)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(timeout=120) for process in processes] == [75, 75]

    last = series(run.path, "step")[-1][0]
    assert 6 <= last < 40
    assert run.committed_steps()[-1] == last
    assert train_toy(config, run.path)
    assert train_toy(config, tmp_path / "single")
    assert series(run.path, "step", "batch_digest") == series(tmp_path / "single", "step", "batch_digest")
    for (ours,), (theirs,) in zip(series(run.path, "loss"), series(tmp_path / "single", "loss"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
