"""Several processes make one run: the batches and losses of one process, one checkpoint, one stop."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.conftest import QUICK_COMPILATIONS, ROOT, one_device
from tests.toy import series, toy_config, train_toy
from vla_jax.run_directory import RunDirectory, host_share, verify_manifest

SETTINGS = """
import json, sys, time
from pathlib import Path
import jax
from flax import nnx
from tests.toy import ToyPipeline, toy_config, train_toy
from vla_jax import accelerator, config
from vla_jax.training.preemption import EXIT_CODE, Preemption

nnx.set_graph_mode(False)
nnx.set_graph_updates(False)
config.OWN_PACKAGES += ("tests.",)
accelerator.choose_platform()
accelerator.join_processes()
folder = Path(sys.argv[1])
"""

SLOW_RUN = """
class Slow(ToyPipeline):
    def batch(self, step):
        time.sleep(0.1)
        return super().batch(step)

with accelerator.first_process_first("data"):
    pipeline = Slow(42, 8)
with Preemption() as preemption:
    done = train_toy(toy_config(num_steps=40), folder, pipeline=pipeline, preemption=preemption, devices=2)
sys.exit(0 if done else EXIT_CODE)
"""

RUN_ON_MESHES = """
from vla_jax.run_directory import RunDirectory
from vla_jax.sharding import MeshConfig
from vla_jax.training import loop
from vla_jax.training.program import build_program

devices = jax.devices()
meshes = {"tensor": (MeshConfig(data=1, tensor=2), devices), "reversed": (MeshConfig(data=2), devices[::-1])}
for name, (sizes, order) in meshes.items():
    lines, step_line = [], loop.step_line
    loop.step_line = lambda *arguments: lines.append(step_line(*arguments)) or lines[-1]
    settings = toy_config(num_steps=6, mesh=sizes)
    mesh = sizes.build(order)
    assert mesh.devices.ravel().tolist() == order
    run, program = RunDirectory(folder / name), build_program(settings, mesh)
    assert loop.Training(program, run, ToyPipeline(42, 8), Preemption()).run(dict)
    loop.step_line = step_line
    (folder / f"{name}.{jax.process_index()}.json").write_text(json.dumps(lines))
"""


RUN_ON_EIGHT = """
from vla_jax.training.optimizer import OptimizerConfig
from vla_jax.sharding import MeshConfig

optimizer = OptimizerConfig(peak_rate=3e-3, warmup_steps=4, final_rate=3e-3)  # for runs of any length
config = toy_config(num_steps=int(sys.argv[2]), mesh=MeshConfig(data=2, fsdp=4), optimizer=optimizer)
sys.exit(0 if train_toy(config, folder, devices=8) else 1)
"""


def start(script, folder, *arguments, processes=2, devices=1) -> list[subprocess.Popen]:
    """As many processes of so many simulated devices each."""
    together = {"XLA_FLAGS": f"{QUICK_COMPILATIONS} --xla_force_host_platform_device_count={devices}"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free.getsockname()[1]}", "JAX_NUM_PROCESSES": str(processes)}
    together |= address if processes > 1 else {}
    command = [sys.executable, "-c", SETTINGS + script, str(folder), *map(str, arguments)]
    environments = [one_device() | together | {"JAX_PROCESS_ID": str(number)} for number in range(processes)]
    return [
        subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) for environment in environments
    ]


def test_two_processes_stop_at_the_same_step_and_one_process_goes_on(tmp_path):
    run, config = RunDirectory(tmp_path / "run"), toy_config(num_steps=40)
    processes = start(SLOW_RUN, run.path)
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


def test_both_processes_see_the_losses_of_one_where_tensor_spans_them_or_devices_are_permuted(tmp_path):
    processes = start(RUN_ON_MESHES, tmp_path)
    assert [process.wait(timeout=240) for process in processes] == [0, 0]
    assert train_toy(toy_config(num_steps=6), tmp_path / "single")
    single = series(tmp_path / "single", "step", "batch_digest", "loss_hex")
    assert len(single) == 6
    for name in ("tensor", "reversed"):
        for process in range(2):
            lines = json.loads((tmp_path / f"{name}.{process}.json").read_text())
            assert [(line["step"], line["batch_digest"]) for line in lines] == [row[:2] for row in single]
            losses = [float.fromhex(line["loss_hex"]) for line in lines]
            assert losses == pytest.approx([float.fromhex(row[2]) for row in single], rel=1e-6), (name, process)


def run_on_eight(folder, num_steps, processes):
    started = start(RUN_ON_EIGHT, folder, num_steps, processes=processes, devices=8 // processes)
    assert [process.wait(timeout=600) for process in started] == [0] * processes


@pytest.fixture(scope="module")
def eight_devices(tmp_path_factory):
    """A run of one process on eight simulated devices."""
    folder = tmp_path_factory.mktemp("eight") / "run"
    run_on_eight(folder, 15, processes=1)
    return folder


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two") / "run"
    run_on_eight(folder, 5, processes=2)
    return folder


def same_series(ours, theirs):
    found, expected = (series(folder, "step", "batch_digest") for folder in (ours, theirs))
    assert found == expected[: len(found)]
    losses, wanted = ([loss for (loss,) in series(folder, "loss")] for folder in (ours, theirs))
    assert losses == pytest.approx(wanted[: len(losses)], rel=1e-6)


def test_two_processes_of_four_devices_are_one_of_eight(two_processes, eight_devices):
    assert len(series(two_processes, "step")) == 5
    same_series(two_processes, eight_devices)


def test_each_process_has_digested_what_it_wrote(two_processes):
    folder = RunDirectory(two_processes).step(5)
    shares = [host_share(folder, process, 2) for process in range(2)]
    assert all("ocdbt.process_1" not in path.as_posix() for path in shares[0])
    assert any("ocdbt.process_1" in path.as_posix() for path in shares[1])
    assert sorted(shares[0] + shares[1]) == host_share(folder, 0, 1)
    for process in range(2):
        verify_manifest(folder, process=process, count=2)
    assert not [entry for entry in folder.parent.iterdir() if "digests" in entry.name]


@pytest.mark.all_presets
def test_a_run_of_two_processes_goes_on_in_one_and_then_in_four(two_processes, eight_devices, tmp_path):
    moved = shutil.copytree(two_processes, tmp_path / "moved")
    run_on_eight(moved, 10, processes=1)
    run_on_eight(moved, 15, processes=4)
    assert len(series(moved, "step")) == 15
    same_series(moved, eight_devices)
