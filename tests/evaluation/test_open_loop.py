"""Open-loop evaluation: its numbers, its files, and what it refuses."""

import csv
import json
import shutil
import subprocess
import sys

import jsonschema
import numpy as np
import pytest

from tests.conftest import ROOT, one_device
from tests.rlds_episodes import write_bridge
from vla_jax.evaluation.errors import ActionErrors
from vla_jax.schemas import schema


@pytest.fixture
def errors():
    generator = np.random.default_rng(0)
    recorded = generator.normal(size=(6, 3, 2)).astype(np.float32)
    mask = generator.random((6, 3, 2)) < 0.6
    mask[:, 2, 1] = False
    ids = np.stack([np.arange(6) // 3, np.arange(6) % 3], axis=1)
    return ActionErrors(recorded + 0.5, np.where(mask, recorded, 99.0), mask, ids)


def test_errors_count_recorded_targets_only(errors):
    expected = np.full((3, 2), 0.5)
    expected[2, 1] = 0.0
    np.testing.assert_allclose(errors.mean_absolute(), expected, rtol=1e-6)
    np.testing.assert_allclose(errors.root_mean_square(), expected, rtol=1e-6)
    assert errors.count()[2, 1] == 0


def test_a_constant_is_measured_like_a_policy(errors):
    constant = np.array([0.1, -0.2], np.float32)
    same = ActionErrors(np.broadcast_to(constant, errors.recorded.shape), errors.recorded, errors.mask, errors.ids)
    np.testing.assert_allclose(errors.of_constant(constant), same.mean_absolute(), rtol=1e-6)


def _eval(*options) -> subprocess.CompletedProcess:
    command = [sys.executable, "eval.py", *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=one_device())


def test_a_run_is_evaluated_from_the_command_line(tiny_run, bridge_data, tmp_path):
    dataset = bridge_data / "bridge_dataset" / "1.0.0"
    where = ["--checkpoint", tiny_run, "--open-loop", dataset, "--out", tmp_path / "out"]
    result = _eval(*where, "--num-pictures", 2, "--int8", "weight_only")
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    jsonschema.validate(summary, schema("open_loop_summary"))
    assert (summary["split"], summary["step"], summary["weights"]) == ("val", 6, "ema")
    assert summary["int8"] == "weight_only"
    assert "int8 weight_only" in " ".join(result.stdout.split())
    assert (summary["episodes"], summary["windows"]) == (3, 21)
    assert np.shape(summary["mean_absolute_error"]) == (4, 10)
    rows = list(csv.DictReader((tmp_path / "out" / "errors.csv").open()))
    assert len(rows) == 40
    assert float(rows[0]["mean_absolute_error"]) == pytest.approx(summary["mean_absolute_error"][0][0], rel=1e-4)
    pictures = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert pictures == ["episode_0.png", "episode_1.png", "errors.png"]
    assert "dx" in result.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--checkpoint": "nowhere"}, "neither a run"),
        ({"--step": 4}, "no committed checkpoint of step 4"),
        ({"--open-loop": "nowhere"}, "no such dataset directory"),
        ({"--split": "test"}, "no split 'test'"),
        ({"--out": "."}, "never overwritten"),
        ({"--batch-size": 0}, "--batch-size 0: at least 1 expected"),
        ({"--open-loop": None, "--env": "tabletop:reach", "--batch-size": 0}, "--batch-size 0: at least 1 expected"),
    ],
)
def test_bad_input_gives_one_message_and_writes_nothing(tiny_run, bridge_data, tmp_path, change, message):
    options = {"--checkpoint": tiny_run, "--open-loop": bridge_data / "bridge_dataset" / "1.0.0"}
    options |= {"--out": tmp_path / "out"} | change
    result = _eval(*(part for option, value in options.items() if value is not None for part in (option, value)))
    _assert_refused(result, message)
    assert list(tmp_path.iterdir()) == []


def _assert_refused(result, message):
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("eval.py: ")]
    assert message in line


@pytest.mark.parametrize("way", ["--open-loop", "--env"])
def test_a_flipped_bit_in_a_checkpoint_is_refused(tiny_run, bridge_data, tmp_path, way):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    largest = max((run / "checkpoints" / "6" / "ema").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    what = {"--open-loop": bridge_data / "bridge_dataset" / "1.0.0", "--env": "tabletop:reach"}[way]
    _assert_refused(_eval("--checkpoint", run, way, what, "--out", tmp_path / "out"), f"{largest.name}: its sha256")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_evaluation_on_another_copy_of_the_data_leaves_the_run_as_it_is(tiny_run, tmp_path):
    dataset = write_bridge(tmp_path / "copy", splits=("train",), lengths=(6, 5))
    before = _content(tiny_run)
    assert any("index" in path.parts and "train" in path.parts for path in before)
    result = _eval("--checkpoint", tiny_run, "--open-loop", dataset, "--split", "train", "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["episodes"] == 2
    assert _content(tiny_run) == before


def _content(folder):
    """Of every file and folder beneath: when it was changed, and its bytes."""
    return {p: (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else None) for p in [folder, *folder.rglob("*")]}
