"""python -m data_pipelines, and what the pipeline may not import."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from data_pipelines.__main__ import main
from tests.rlds_episodes import write_bridge
from vla_jax.schemas import schema

ROOT = Path(__file__).resolve().parents[2]

RECIPE = """
import types
from data_pipelines.action_spaces import relative_pose

def get_config():
    return types.SimpleNamespace(action_space=relative_pose.action_space(4, "gaussian"))

def short():
    return types.SimpleNamespace(action_space=relative_pose.action_space(2))
"""


def test_index_is_idempotent_and_covers_every_split(tmp_path, capsys):
    folder = write_bridge(tmp_path, splits=("train", "val"))
    arguments = ["index", str(folder), "--cache", str(tmp_path / "cache"), "--jobs", "1"]
    assert main(arguments) == 0
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")} == files
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("train: 3 episodes, 21 steps, 2 shards")
    assert out[1].startswith("val: 3 episodes, 21 steps, 2 shards")


@pytest.mark.parametrize(("variant", "horizon"), [(None, 1), ("", 4), (":short", 2)])
def test_stats_prints_a_table_and_writes_the_contracts_json(tmp_path, capsys, variant, horizon):
    folder = write_bridge(tmp_path)
    (tmp_path / "recipe.py").write_text(RECIPE)
    arguments = ["stats", str(folder), "--cache", str(tmp_path / "cache"), "--json", str(tmp_path / "stats.json")]
    if variant is not None:
        arguments += ["--config", f"{tmp_path}/recipe.py{variant}"]
    assert main(arguments) == 0
    tree = json.loads((tmp_path / "stats.json").read_text())
    jsonschema.validate(tree, schema("dataset_statistics"))
    assert tree["bridge_dataset"]["num_transitions"] == 21
    out = capsys.readouterr().out
    assert "rotation_12" in out
    assert f"relative_pose, horizon {horizon}" in out


def test_bad_input_is_one_message_and_exit_2(tmp_path, capsys):
    folder = write_bridge(tmp_path)
    cache = ["--cache", str(tmp_path / "cache")]
    next(iter(sorted(folder.glob("*.tfrecord-*")))).write_bytes(b"")
    for arguments, message in (
        (["index", str(tmp_path / "none")], "no such dataset directory"),
        (["index", str(folder)], "empty (0 bytes)"),
        (["stats", str(folder)], "empty (0 bytes)"),
        (["stats", str(folder), "--config", "configs/none.py"], "no file configs/none.py"),
        (["stats", str(folder), "--split", "test"], "no split 'test'"),
    ):
        assert main([*arguments, *cache]) == 2
        out, error = capsys.readouterr()
        assert message in error
        assert (out, error.count("\n")) == ("", 1)
    assert not list((tmp_path / "cache").rglob("*.npy"))


@pytest.mark.parametrize(
    ("json_file", "message"), [("none/x.json", "none is no folder that can be written"), (".", "it is a folder")]
)
def test_stats_refuses_a_json_file_that_cannot_be_written_before_the_work(tmp_path, capsys, json_file, message):
    folder = write_bridge(tmp_path / "data")
    arguments = ["stats", str(folder), "--cache", str(tmp_path / "cache"), "--json", str(tmp_path / json_file)]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("def get_config():\n    return {}", "get_config() gives a dict, expected a RunConfig with an ActionSpace"),
        (
            "import types\ndef get_config():\n    return types.SimpleNamespace(action_space=7)",
            "expected a RunConfig with an ActionSpace",
        ),
        ("get_config = 3", "has no get_config()"),
        ("def get_config(:", "line 1"),
        ("import no_such_module", "recipe.py, line 1: ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_stats_refuses_a_recipe_that_gives_no_configuration(tmp_path, capsys, recipe, message):
    folder = write_bridge(tmp_path)
    (tmp_path / "recipe.py").write_text(recipe)
    arguments = ["stats", str(folder), "--cache", str(tmp_path / "cache"), "--config", str(tmp_path / "recipe.py")]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "cache").exists()


def test_a_fresh_process_trains_on_data_without_tensorflow_torch_or_transformers(tmp_path):
    write_bridge(tmp_path)
    code = f"""
import sys
from pathlib import Path
sys.path[:0] = ["tests/data_pipelines"]
from pipeline_setup import open_generated
pipeline = open_generated(Path({str(tmp_path)!r}))
with pipeline.batches(0) as batches:
    next(batches)
import data_pipelines.__main__, data_pipelines.episodes, data_pipelines.writer
heavy = {{"tensorflow", "torch", "transformers", "tensorflow_datasets", "apache_beam"}}
print(sorted(heavy & {{name.split(".")[0] for name in sys.modules}}))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_command_runs_as_a_module_and_is_quiet_without_a_terminal(tmp_path):
    folder = write_bridge(tmp_path)
    command = [sys.executable, "-m", "data_pipelines", "index", str(folder), "--cache", str(tmp_path / "cache")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("train: 3 episodes")
    assert result.stderr == ""
