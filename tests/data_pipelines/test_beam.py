"""`--beam`: the same files as those of `--jobs`, bit for bit, from Beam's own environment."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines.__main__ import main
from tests.rlds_episodes import write_bridge

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements-beam.txt"
ENVIRONMENT = ROOT / "build" / "beam_environment"
NUM_SHARDS = 6
needs_beam = pytest.mark.environments


@pytest.fixture(scope="module")
def python():
    """Of the environment that requirements-beam.txt makes; kept in the build folder until that file changes."""
    stamp, executable = ENVIRONMENT / "requirements.txt", ENVIRONMENT / "bin" / "python"
    if not (stamp.is_file() and stamp.read_text() == REQUIREMENTS.read_text()):
        subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], check=True)
        install = [executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS]
        done = subprocess.run(install, capture_output=True, text=True)
        if done.returncode and re.search("Could not find a version|Connection|Retrying|resolve", done.stderr):
            pytest.skip(f"NOT TESTED: pip reaches no package index, so no environment with Beam: {done.stderr[-300:]}")
        assert done.returncode == 0, done.stderr
        stamp.write_text(REQUIREMENTS.read_text())
    return executable


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("beam")
    return write_bridge(root, lengths=(5, 3, 0, 4, 2, 6), size=(8, 8), shards=NUM_SHARDS, splits=("train", "val"))


@pytest.fixture(scope="module")
def expected(folder, tmp_path_factory):
    """What each command leaves in the cache without Beam."""
    caches = {name: tmp_path_factory.mktemp(name) for name in ("index", "stats")}
    for name, cache in caches.items():
        assert main([name, str(folder), "--cache", str(cache), "--jobs", "1"]) == 0
    return {name: contents(cache) for name, cache in caches.items()}


def contents(cache):
    return {str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def run(python, *arguments):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [python, "-m", "data_pipelines", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@needs_beam
@pytest.mark.parametrize("name", ["index", "stats"])
@pytest.mark.parametrize(
    "options", [["--runner=DirectRunner"], ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]]
)
def test_a_pipeline_leaves_the_same_files_bit_for_bit(python, folder, expected, tmp_path, name, options):
    done = run(python, name, folder, "--cache", tmp_path, "--beam", "--", *options)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path) == expected[name]
    again = run(python, name, folder, "--cache", tmp_path, "--beam", "--", "--runner=NoSuchRunner")
    assert again.returncode == 0, again.stderr  # nothing is left to do, no pipeline is built
    assert again.stdout == done.stdout


@needs_beam
@pytest.mark.parametrize("place", ["memory://parts", "{tmp_path}/parts"])
def test_parts_may_be_left_elsewhere_and_are_removed_there(python, folder, expected, tmp_path, place):
    place = place.format(tmp_path=tmp_path)
    done = run(python, "stats", folder, "--cache", tmp_path / "cache", "--parts", place, "--beam")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "cache") == expected["stats"]
    assert not list((tmp_path / "parts").rglob("*.npz"))


@needs_beam
@pytest.mark.parametrize("mode", ["in_memory", "multi_processing"])
def test_a_damaged_shard_is_one_message_and_the_others_are_not_read_again(python, tmp_path, mode):
    folder = write_bridge(tmp_path / "data", lengths=(2,) * NUM_SHARDS, size=(8, 8), shards=NUM_SHARDS)
    shard = sorted(folder.glob("*.tfrecord-*"))[3]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-3])
    options = ["--cache", tmp_path / "cache", "--beam", "--", "--direct_num_workers=2", f"--direct_running_mode={mode}"]
    done = run(python, "index", folder, *options)
    assert done.returncode == 2
    assert re.search(r"^\S*00003-of-00006: record 0 .*fetch the shard again$", done.stderr, re.MULTILINE)
    shard.write_bytes(whole)
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("[0-9]*.npz")}
    for other in folder.glob("*.tfrecord-*"):
        if other != shard and any(path.name.startswith(other.name[-14:-9]) for path in parts):
            status = other.stat()
            other.write_bytes(b"\0" * status.st_size)  # reading it again would be an error
            os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    done = run(python, "index", folder, *options)
    assert done.returncode == 0, done.stderr
    assert "6 episodes, 12 steps, 6 shards" in done.stdout


def test_without_beam_the_command_says_what_to_install(folder, tmp_path, capsys):
    for arguments, message in (
        (["--beam"], "make an environment of its own with `pip install -r requirements-beam.txt`"),
        (["--", "--runner=DirectRunner"], "-- --runner=DirectRunner: options of a pipeline, but --beam is not given"),
        (["--parts", "gs://bucket"], "--parts gs://bucket: it is of --beam"),
    ):
        assert main(["index", str(folder), "--cache", str(tmp_path), *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_beams_environment_is_that_of_training_but_for_what_beam_forbids():
    def pins(name):
        lines = (ROOT / name).read_text().splitlines()
        return {line.partition("==")[::2] for line in lines if line and not line.startswith("#")}

    differing = pins("requirements-beam.txt") ^ pins("requirements.txt")
    assert {package for package, _ in differing} == {"apache-beam", "pillow", "protobuf"}
