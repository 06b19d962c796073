"""Work by shard: killed for real half-way and gone on with, the same bits whatever the number of jobs."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import parts, statistics, table
from data_pipelines.__main__ import main
from data_pipelines.index import sidecar, sidecar_writer
from data_pipelines.index.dataset_directory import read_directory
from tests.rlds_episodes import write_bridge

ROOT = Path(__file__).resolve().parents[2]
NUM_SHARDS = 12
STAGES = {
    "index": (sidecar_writer, "make_part", sidecar, "SMALL_SPLIT_BYTES"),
    "table": (table, "_make_part", table, "SMALL_SPLIT_STEPS"),
    "statistics": (statistics, "_make_part", statistics, "SMALL_SPLIT_STEPS"),
}
"""Where the function is that makes a part, and the size from which processes are started."""
SLOW = """
import time
from {module} import {function} as fast

def make(unit, **more):
    time.sleep(0.15)
    return fast(unit, **more)
"""
KILLED = """
import slow, sys
import {module} as module, {home} as home
from data_pipelines.__main__ import main
if __name__ == "__main__":
    module.{function}, home.{small} = slow.make, 0
    main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("many_shards")
    return write_bridge(root, lengths=tuple(range(3, 3 + NUM_SHARDS)), size=(8, 8), shards=NUM_SHARDS)


@pytest.fixture(scope="module")
def finished(many_shards, tmp_path_factory):
    """What an uninterrupted run in one process leaves in the cache."""
    cache = tmp_path_factory.mktemp("finished")
    assert main(command(many_shards, cache)) == 0
    return contents(cache)


def command(folder, cache, jobs=1):
    return ["stats", str(folder), "--cache", str(cache), "--jobs", str(jobs)]


def contents(cache):
    return {str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*") if path.is_file()}


@pytest.mark.parametrize("stage", STAGES)
def test_killed_half_way_the_next_start_does_the_missing_shards_only(
    many_shards, finished, tmp_path, monkeypatch, stage
):
    module, function, home, small = STAGES[stage]
    names = {"module": module.__name__, "function": function, "home": home.__name__, "small": small}
    (tmp_path / "slow.py").write_text(SLOW.format(**names))
    (tmp_path / "killed.py").write_text(KILLED.format(**names))
    cache = tmp_path / "cache"

    def whole():
        return list(cache.rglob(f"parts/{stage}-*/[0-9]*.npz"))

    arguments = [sys.executable, str(tmp_path / "killed.py"), *command(many_shards, cache, jobs=2)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    with subprocess.Popen(arguments, cwd=ROOT, env=environment, start_new_session=True) as process:
        deadline = time.monotonic() + 60
        while len(whole()) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.01)
        pytest.fail("workers outlive the process that started them")
    done = {int(path.name[:5]) for path in whole()}
    assert 3 <= len(done) < NUM_SHARDS

    made = []
    original = getattr(module, function)
    monkeypatch.setattr(module, function, lambda unit, **more: made.append(number_of(unit)) or original(unit, **more))
    assert main(command(many_shards, cache)) == 0
    assert sorted(made) == sorted(set(range(NUM_SHARDS)) - done)
    assert contents(cache) == finished
    made.clear()
    assert main(command(many_shards, cache)) == 0
    assert made == []


def number_of(unit):
    return unit if isinstance(unit, int) else int(unit.path.name.split("tfrecord-")[1][:5])


def test_the_number_of_jobs_changes_no_bit(many_shards, finished, tmp_path, monkeypatch):
    for _, _, home, small in STAGES.values():
        monkeypatch.setattr(home, small, 0)
    assert main(command(many_shards, tmp_path, jobs=2)) == 0
    found = contents(tmp_path)
    assert found == finished
    assert {Path(name).suffix for name in found} == {".json", ".npy", ".npz"}


def test_processes_that_build_the_same_at_the_same_time_all_succeed(many_shards, finished, tmp_path):
    arguments = [sys.executable, "-m", "data_pipelines", *command(many_shards, tmp_path)]
    running = [subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    assert contents(tmp_path) == finished


def test_parts_that_another_process_removed_before_they_were_read_are_made_again(many_shards, tmp_path, monkeypatch):
    write_sidecar, calls = sidecar.write_sidecar, []

    def after_another(folder, directory, split, work):
        calls.append(split)
        if len(calls) == 1:
            shutil.rmtree(work.folder)
        write_sidecar(folder, directory, split, work)

    monkeypatch.setattr(sidecar, "write_sidecar", after_another)
    directory = read_directory(many_shards)
    assert sidecar.open_index(directory, "train", tmp_path).num_episodes == NUM_SHARDS
    assert calls == ["train"] * 2


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped"])
def test_a_damaged_part_is_made_again(many_shards, finished, tmp_path, damage):
    directory = read_directory(many_shards)
    stamps = sidecar.stamps_of(directory.shards("train"))
    home = sidecar.split_cache(directory, "train", tmp_path)
    work = sidecar_writer.index_work(directory, "train", stamps, home / "parts")
    parts.make_missing(work, jobs=1)
    path = sorted(work.folder.iterdir())[4]
    whole = path.read_bytes()
    place = whole.index(b"columns/steps/action.npy") + 200  # inside the numbers
    flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    path.write_bytes({"empty": b"", "cut": whole[:-30], "flipped": flipped}[damage])
    assert main(command(many_shards, tmp_path)) == 0
    assert contents(tmp_path) == finished


def test_parts_that_nobody_came_back_for_are_removed(many_shards, tmp_path):
    home = tmp_path / "bridge_dataset" / "1.0.0" / "train" / "parts"
    for name, days in (("index-of_older_code", 8), ("index-of_another_run", 1)):
        (home / name).mkdir(parents=True)
        then = time.time() - days * 24 * 3600
        os.utime(home / name, (then, then))
    assert main(command(many_shards, tmp_path)) == 0
    assert [path.name for path in home.iterdir()] == ["index-of_another_run"]


def test_a_part_holds_arrays_only(tmp_path):
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        parts.write_part(tmp_path / "a.npz", {"a": np.array([{}], object)})
    np.savez(tmp_path / "b.npz", a=np.array([{}], object))
    with parts.StoredPart(tmp_path / "b.npz") as part, pytest.raises(parts.PartLostError, match="pickle"):
        part["a"]
    assert list(tmp_path.iterdir()) == []
