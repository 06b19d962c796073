"""The scripts of launch files, really run: every word arrives as it was, and exit codes do what the contract says."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests.conftest import ROOT
from tests.launch.golden.make_golden import render

NASTY = "/mnt/runs/a b'c\"d$HOME`id`$(id)\\n\n$$\t;&|*é#"
COMMON = ["--config", "configs/ef_vla_bridge.py:tiny", "--data.root", "/mnt/runs/data", "--data.cache", NASTY]
COMMON += ["--run-dir", "/mnt/runs/x y", "--init-from=" + NASTY]
TARGETS = {
    "tpu-vm": ["--topology", "v5e:4x4", "--zone", "us-east5-b", "--storage", "/mnt/runs=10.0.0.2:/runs"],
    "gke": ["--topology", "v5e:4x4", "--storage", "/mnt/runs=pvc:runs"],
    "slurm": ["--nodes", "2", "--gpus", "2", "--storage", "/mnt/runs"],
    "sky": ["--gpu", "H100", "--gpus", "2", "--nodes", "2", "--storage", "/mnt/runs=gs://runs"],
}
PYTHON = f"""#!/bin/sh
[ "$1" = -m ] || exec {sys.executable} "$@"
"""
"""Of the checkout: pip finds everything installed."""
TRAIN = """
import json, os, sys
from pathlib import Path
names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAX_LOCAL_DEVICE_IDS")
with open("starts", "a") as starts:
    starts.write(json.dumps([sys.argv[1:], {name: os.environ.get(name) for name in names}]) + "\\n")
codes = Path("codes").read_text().split()
Path("codes").write_text(" ".join(codes[1:]))
sys.exit(int(codes[0]))
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout whose train.py writes down how it was started, and ends with the next of `codes`."""
    monkeypatch.chdir(ROOT)
    folder = tmp_path / "code"
    (folder / ".venv" / "bin").mkdir(parents=True)
    make_program(folder / ".venv" / "bin" / "python", PYTHON)
    (folder / "train.py").write_text(TRAIN)
    (folder / "codes").write_text("0")
    return folder


def make_program(path, text):
    path.write_text(text)
    path.chmod(0o755)


def starts(checkout) -> list:
    return [json.loads(line) for line in (checkout / "starts").read_text().splitlines()]


def run(command, checkout, **environment) -> int:
    return subprocess.run(command, cwd=checkout, env=os.environ | environment, timeout=60).returncode


def script_of(target, checkout, *further) -> list[str]:
    """What a host runs, as a command line."""
    text = render("--target", target, *TARGETS[target], "--code", str(checkout), *COMMON, *further)
    if target == "tpu-vm":
        loop = re.search(r"<<'END_OF_RUN'\n(.*?)\nEND_OF_RUN", text, re.DOTALL)[1]
        return ["bash", "-c", loop.replace("sleep 10", "sleep 0")]
    if target == "slurm":
        return ["bash", "-c", text.replace("failures=", "failures=$PWD")]
    if target == "sky":
        return ["bash", "-c", yaml.safe_load(text)["setup"] + "\n" + yaml.safe_load(text)["run"]]
    container = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][
        0
    ]
    return container["command"] + [expanded(word) for word in container["args"]]


def expanded(word) -> str:
    """As Kubernetes does with no variable set: `$$` is a dollar, `$(NAME)` stays."""
    return word.replace("$$", "$")


@pytest.fixture
def slurm(tmp_path):
    """srun and scontrol, as far as one node needs them; where scontrol writes down what it was asked for."""
    folder = tmp_path / "bin"
    folder.mkdir()
    make_program(folder / "srun", '#!/bin/bash\nwhile [[ $1 == -* ]]; do shift; done\nexec "$@"\n')
    make_program(folder / "scontrol", f'#!/bin/sh\necho "$@" >>{tmp_path}/requeued\n')
    return {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}


@pytest.mark.parametrize("target", TARGETS)
def test_every_word_arrives_as_it_was_given(target, checkout, slurm):
    sky = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    assert run(script_of(target, checkout), checkout, **slurm, **sky) == 0
    ((words, environment),) = starts(checkout)
    assert words == [*COMMON[:2], "--run-dir", "/mnt/runs/x y", "--init-from", NASTY, *COMMON[2:6]]
    if target == "sky":
        told = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:8482", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
        assert environment | told == environment
    if target == "slurm":
        assert environment["JAX_LOCAL_DEVICE_IDS"] == "0,1"


@pytest.mark.parametrize(
    ("codes", "num_starts", "code"),
    [("75 75 1 0", 4, 0), ("2 0", 1, 2), ("0 0", 1, 0), ("1 75 137 75 1 0", 5, 1), ("75 " * 12 + "0", 13, 0)],
)
def test_a_tpu_host_starts_again_what_the_contract_says(checkout, codes, num_starts, code):
    (checkout / "codes").write_text(codes)
    assert run(script_of("tpu-vm", checkout, "--max-failures", "2"), checkout) == code
    assert len(starts(checkout)) == num_starts


def test_sigterm_of_a_tpu_host_reaches_the_run_and_ends_the_loop(checkout):
    (checkout / "train.py").write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit(75)))\n"
        "open('starts', 'a').write('x')\ntime.sleep(60)\n"
    )
    process = subprocess.Popen(script_of("tpu-vm", checkout), cwd=checkout)
    while not (checkout / "starts").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75
    assert (checkout / "starts").read_text() == "x"


@pytest.mark.parametrize(
    ("code", "failures", "requeued"), [(75, 9, True), (0, 0, False), (2, 0, False), (137, 1, True), (1, 2, False)]
)
def test_a_slurm_job_puts_itself_back_into_the_queue(checkout, slurm, tmp_path, code, failures, requeued):
    (checkout / "codes").write_text(str(code))
    logs = checkout / "mnt" / "runs" / "x y" / "logs"
    script = script_of("slurm", checkout, "--max-failures", "2")
    if failures:
        logs.mkdir(parents=True)
        (logs / "failures-7").write_text("1\n" * failures)
    assert run(script, checkout, **slurm) == (0 if requeued else code)
    assert (tmp_path / "requeued").exists() == requeued
    if requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 7\n"


def test_the_script_for_tpu_vms_asks_for_what_it_says_and_hands_over_a_startup_script(checkout, tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    keeps = (
        f'for word; do case $word in *startup-script=*) cp "${{word#*startup-script=}}" {tmp_path}/startup;; esac; done'
    )
    make_program(folder / "gcloud", f'#!/bin/bash\nprintf "%s\\n" "$@" >{tmp_path}/asked\n{keeps}\n')
    options = ["--target", "tpu-vm", *TARGETS["tpu-vm"], "--spot", "--code", str(checkout), *COMMON]
    assert run(["bash", "-c", render(*options)], checkout, PATH=f"{folder}:{os.environ['PATH']}") == 0
    asked = (tmp_path / "asked").read_text().split("\n")
    assert asked[:5] == ["compute", "tpus", "queued-resources", "create", "x-y"]
    expected = {"--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite", "--node-id=x-y", "--spot"}
    assert expected <= set(asked)
    assert run(["bash", "-n", str(tmp_path / "startup")], checkout) == 0
    assert "mount -t nfs 10.0.0.2:/runs /mnt/runs" in (tmp_path / "startup").read_text()


def test_words_are_not_quoted_by_accident(checkout):
    """The wrong twin: the same file with its words joined by spaces alone gives other words."""
    naive = [".venv/bin/python", "train.py", *COMMON]
    run(["bash", "-c", " ".join(naive)], checkout)
    assert not (checkout / "starts").exists() or starts(checkout)[0][0] != COMMON
