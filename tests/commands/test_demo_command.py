"""The demo, its short form: killed while it makes demonstrations and while it trains, it ends like any other."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest

from tests.conftest import ROOT, one_device
from vla_jax.schemas import schema

DEADLINE_SECONDS = 300
pytestmark = pytest.mark.slow  # `make demo-short` runs beside `make test`


def start(out) -> subprocess.Popen:
    command = [sys.executable, "-m", "vla_jax", "demo", "--short", "--out", str(out)]
    log = out.with_suffix(".log").open("a")
    return subprocess.Popen(command, cwd=ROOT, env=one_device(), stdout=log, stderr=log, start_new_session=True)


def kill_when(condition, process) -> None:
    """`kill -9` of the demo alone, not of the command that it runs."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


def commands_with(folder) -> list[str]:
    """Command lines of living processes that name the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if str(folder).encode() in line:
                found.append(line.replace(b"\0", b" ").decode())
    return found


def wait_until_nothing_runs(folder) -> None:
    deadline = time.monotonic() + 60
    while (left := commands_with(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, "a command ran on after the demo was killed"


@pytest.fixture(scope="module")
def demo(gl_backend, tmp_path_factory):
    """Killed twice, then finished."""
    out = tmp_path_factory.mktemp("demo") / "out"
    kill_when(lambda: any((out / "data").rglob("*tabletop_gantry*")), start(out))
    wait_until_nothing_runs(out)
    kill_when(lambda: (out / "run" / "config.json").is_file(), start(out))
    wait_until_nothing_runs(out)
    shards = {path: path.stat().st_mtime_ns for path in (out / "data").rglob("*.tfrecord-*")}
    assert start(out).wait(DEADLINE_SECONDS) == 0, out.with_suffix(".log").read_text()
    return out, shards


def test_what_was_finished_is_not_made_again(demo):
    out, shards = demo
    assert shards
    assert {path: path.stat().st_mtime_ns for path in (out / "data").rglob("*.tfrecord-*")} == shards


def test_the_summary_keeps_its_schema_and_counts_every_start(demo):
    out, _ = demo
    summary = json.loads((out / "summary.json").read_text())
    jsonschema.validate(summary, schema("demo_summary"))
    assert summary["trained"]["trials"] == 4
    assert summary["parity"] < 1e-5
    assert summary["minutes"] == pytest.approx(sum(summary["stage_seconds"].values()) / 60, abs=0.02)
    for name in ("loss.png", "attention.png"):
        assert (out / name).stat().st_size > 5_000
    assert list((out / "trained").glob("*.png"))


def test_a_finished_demo_does_nothing_again(demo):
    out, _ = demo
    newest = max(path.stat().st_mtime_ns for path in (out / "run").rglob("*"))
    assert start(out).wait(DEADLINE_SECONDS) == 0
    assert max(path.stat().st_mtime_ns for path in (out / "run" / "checkpoints").rglob("*")) <= newest


def test_a_whole_demo_does_not_go_on_in_the_folder_of_a_short_one(demo):
    out, _ = demo
    command = [sys.executable, "-m", "vla_jax", "demo", "--out", str(out)]
    result = subprocess.run(command, cwd=ROOT, env=os.environ.copy(), capture_output=True, text=True)
    assert result.returncode == 2
    assert "another size" in result.stderr
