"""A run that hangs ends by itself: a stalled loader, a held interpreter, a peer that stopped or died."""

import json
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT, one_device

STEP_SECONDS, LAST_WORDS_SECONDS = 8.0, 2.0
SLACK_SECONDS = 20.0
"""For a poll of the watchdog, its last words and the end of a process on a busy machine."""
TRAIN = """
import ctypes, dataclasses, json, sys, time
from pathlib import Path
import train
from tests.toy import ToyPipeline, toy_config
from vla_jax import config
from vla_jax.run_directory import RunDirectory
from vla_jax.training import watchdog
from vla_jax.training.host_log import host_log
from vla_jax.training.loop import Training
from vla_jax.training.program import build_program
import jax

config.OWN_PACKAGES += ("tests.",)
folder, fault, step_seconds, watchdog._LAST_WORDS_SECONDS = Path(sys.argv[1]), sys.argv[2], *map(float, sys.argv[3:5])

class Faulty(ToyPipeline):
    def batch(self, step):
        if step == 0 and fault != "peer":
            time.sleep(1.5 * step_seconds)
        if step == 6:
            (folder / "fault").touch()
            stall_of_the_test[fault]()
        return super().batch(step)

def hold_the_interpreter():
    ctypes.PyDLL(None).sleep(1000)

stall_of_the_test = {"loader": lambda: time.sleep(1000), "interpreter": hold_the_interpreter, "none": int, "peer": int}

def toy_run(settings, options, preemption, goodput):
    limits = watchdog.WatchdogConfig(step_seconds=step_seconds, slow_seconds=240)
    lengths = {"num_steps": 10**6, "checkpoint_every": 10**6} if fault == "peer" else {"num_steps": 9}
    settings = toy_config(watchdog=limits, **lengths)
    run, program = RunDirectory(folder), build_program(settings, settings.mesh.build())
    with host_log(run.log(jax.process_index())):
        training = Training(program, run, Faulty(settings.seed, settings.batch_size), preemption, goodput=goodput)
        return 0 if training.run(dict) else 75

train.run = toy_run
sys.exit(train.main(["--config", "configs/ef_vla_bridge.py:tiny"]))
"""


def start(folder, fault, **environment) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", TRAIN, str(folder), fault, str(STEP_SECONDS), str(LAST_WORDS_SECONDS)]
    return subprocess.Popen(
        command, cwd=ROOT, env=one_device() | environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def seconds_from(file, process) -> float:
    """Until the process ends, after `file` was made."""
    while not file.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    began = time.monotonic()
    process.wait(timeout=240)
    return time.monotonic() - began


def test_a_stalled_loader_ends_with_75_and_all_stacks_and_the_same_command_goes_on(tmp_path):
    """Its first batch takes longer than a step may: a start has an allowance of its own."""
    run = tmp_path / "run"
    process = start(run, "loader")
    seconds = seconds_from(run / "fault", process)
    error = process.stderr.read()
    assert process.returncode == 75, error
    assert seconds < STEP_SECONDS + SLACK_SECONDS
    assert "data_wait has lasted longer than watchdog.step_seconds=8" in error
    (log,) = (run / "logs").iterdir()
    assert log.name == f"0000-{socket.gethostname()}.log"
    for text in (error, log.read_text()):
        assert re.search(r"line \d+ in stall_of_the_test|line \d+ in <lambda>", text), text
        assert "in _fill" in text, "the loader's thread"
        assert "in _steps" in text, "the main thread"
    assert (run / "checkpoints" / "5" / "MANIFEST.json").is_file()

    again = start(run, "none")
    _, error = again.communicate(timeout=240)
    assert again.returncode == 0, error
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["restored_step"] for line in lines if "event" in line] == [0, 5]
    spent = lines[-1]["wall_seconds"]
    assert spent["interrupted"] > STEP_SECONDS, "the hang, and what was done after step 5"
    assert spent["restore"] > 0
    assert lines[-1]["goodput"] == pytest.approx(spent["step"] / sum(spent.values()), abs=1e-3)


def test_a_library_that_holds_the_interpreter_is_ended_too(tmp_path):
    run = tmp_path / "run"
    process = start(run, "interpreter")
    seconds = seconds_from(run / "fault", process)
    error = process.stderr.read()
    assert process.returncode == 1, error
    assert seconds < STEP_SECONDS + LAST_WORDS_SECONDS + SLACK_SECONDS
    assert "in hold_the_interpreter" in error


@pytest.mark.parametrize(
    ("number", "codes"), [(signal.SIGSTOP, {75}), (signal.SIGKILL, {75, 1, -signal.SIGABRT})], ids=["stopped", "killed"]
)
def test_a_process_whose_peer_is_gone_ends_in_time(tmp_path, number, codes):
    """Where a peer was killed, JAX may see it before the watchdog does, and fails the step or ends the process."""
    run = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        together = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free.getsockname()[1]}", "JAX_NUM_PROCESSES": "2"}
    first, second = (start(run, "peer", JAX_PROCESS_ID=index, **together) for index in ("0", "1"))
    try:
        while not (run / "fault").exists():
            assert first.poll() is None, first.stderr.read()
            time.sleep(0.05)
        second.send_signal(number)
        began = time.monotonic()
        first.wait(timeout=240)
        seconds, error = time.monotonic() - began, first.stderr.read()
    finally:
        second.kill()
        first.kill()
    assert first.returncode in codes, error
    assert seconds < STEP_SECONDS + SLACK_SECONDS
    if number == signal.SIGSTOP:
        assert "step has lasted longer than watchdog.step_seconds=8" in error
    assert {path.name.partition("-")[0] for path in (run / "logs").iterdir()} == {"0000", "0001"}
