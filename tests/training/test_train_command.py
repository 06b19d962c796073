"""train.py from its command line: exit codes, one message, what is imported, fine-tuning."""

import json
import logging
import re
import shutil
import subprocess
import sys

import pytest

import train
from tests.conftest import ROOT, one_device
from tests.rlds_episodes import write_bridge
from vla_jax import recipe
from vla_jax.parameter_store import load_parameters
from vla_jax.run_directory import RunDirectory
from vla_jax.types import InputError

TINY = ["--config", "configs/ef_vla_bridge.py:tiny"]
SAME_STEP = ["--num-steps", 6, "--checkpoint-every", 3, "--batch-size", 4]
"""As `tiny_run`, so that its compiled step serves."""


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def main(capsys):
    """train.main in this process, for what ends before the first compilation: exit code and standard error."""
    handlers = logging.root.handlers[:]

    def call(*arguments):
        code = train.main([str(argument) for argument in arguments])
        return code, capsys.readouterr().err

    yield call
    logging.root.handlers[:] = handlers


def command(*arguments):
    line = [sys.executable, "train.py", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env=one_device(), timeout=300)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is missing"),
        (["--config", "configs/nothing.py"], "there is no file configs/nothing.py"),
        (["--config", "README.md"], "not a Python file"),
        (["--config", "configs/ef_vla_bridge.py:tyny"], "has no tyny().*variants are .*'tiny'"),
        ([*TINY, "--learning-rate", "1"], "Unrecognized options: --learning-rate"),
        ([*TINY, "--policy.trunk.num-heds", "1"], "Perhaps you meant: --policy.trunk.num-heads"),
        ([*TINY, "--num-steps", "many"], "--num-steps.*'many'"),
        ([*TINY, "--num-steps", "0"], "num_steps=0: at least 1 expected"),
        ([*TINY, "--mesh.data", "3"], "does not fit 8 devices"),
        ([*TINY, "--batch-size", "6", "--mesh.data", "8"], "batch_size=6 does not divide"),
        ([*TINY, "--data.root", "/nowhere"], "/nowhere/bridge_dataset/1.0.0"),
    ],
)
def test_bad_input_is_one_clear_message_and_exit_2(main, tmp_path, arguments, message):
    code, error = main(*arguments, "--run-dir", tmp_path / "run")
    assert code == 2
    lines = [line for line in error.splitlines() if "train.py: " in line]
    assert len(lines) == 1
    assert re.search(message, lines[0]), lines[0]
    assert "Traceback" not in error
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_recipe_that_gives_something_else_is_refused(tmp_path):
    (tmp_path / "wrong.py").write_text("def get_config():\n    return {'a': 1}\n")
    with pytest.raises(InputError, match=r"get_config\(\) gives a dict, expected a RunConfig"):
        recipe.load(str(tmp_path / "wrong.py"))


def test_overrides_are_typed_and_reach_into_the_recipe():
    config = recipe.override(
        recipe.load(TINY[1]),
        ["--optimizer.peak-rate", "1e-5", "--mesh.fsdp", "2", "--data.cache", "/c", "--ema-decay", "None"],
        program="train.py",
    )
    assert (config.optimizer.peak_rate, config.mesh.fsdp, config.data.cache) == (1e-5, 2, "/c")
    assert config.ema_decay is None
    assert recipe.override(config, [], program="train.py") == config


def test_help_exits_0_with_and_without_a_recipe(capsys):
    for arguments in (["--help"], [*TINY, "--help"]):
        with pytest.raises(SystemExit) as exit_:
            train.main(arguments)
        assert not exit_.value.code
    assert "--optimizer.peak-rate" in capsys.readouterr().out


def test_another_configuration_is_refused_for_a_run_that_stands(main, tiny_run, bridge_data, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    same = [*SAME_STEP, "--data.root", bridge_data, "--run-dir", run]
    code, error = main(*TINY, *same, "--optimizer.peak-rate", "0.5", "--seed", 7)
    assert code == 2
    assert "optimizer.peak_rate: 0.003 in the run, 0.5 now" in error
    assert "seed: 42 in the run, 7 now" in error
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_frozen_encoder_without_weights_is_refused(main, bridge_data, tmp_path):
    code, error = main(
        *TINY, "--data.root", bridge_data, "--run-dir", tmp_path / "run", "--no-allow-random-frozen", "--batch-size", 8
    )
    assert code == 2
    assert "the frozen part clip has no weights" in error
    assert RunDirectory(tmp_path / "run").committed_steps() == []


def test_a_run_keeps_its_vocabulary_and_its_frozen_weights(tiny_run):
    assert (tiny_run / "tokenizer" / "tokenizer.json").is_file()
    assert (tiny_run / "frozen" / "MANIFEST.json").is_file()
    assert json.loads((tiny_run / "env.json").read_text())["command"][0] == "train.py"


@pytest.fixture(scope="module")
def other_data(tmp_path_factory):
    root = tmp_path_factory.mktemp("other_data")
    write_bridge(root, lengths=(8, 5))
    return root


def test_a_fine_tune_starts_from_a_run_on_other_data_and_goes_on_without_the_flag(tiny_run, other_data, tmp_path):
    run = tmp_path / "tuned"
    options = [*TINY, *SAME_STEP, "--data.root", other_data, "--run-dir", run, "--seed", 7, "--no-allow-random-frozen"]
    first = command(*options, "--init-from", tiny_run)
    assert first.returncode == 0, first.stderr
    ours, theirs = (load_parameters(folder, weights="raw") for folder in (run, tiny_run))
    moved = {path: abs(ours.parameters[path] - array).max() for path, array in theirs.parameters.items()}
    assert all(distance == 0 for path, distance in moved.items() if path.startswith("clip/"))
    assert 0 < max(moved.values()) < 0.02, "six small steps from the other run's weights, not from random ones"
    assert ours.statistics() != theirs.statistics()
    again = command(*options, "--init-from", "/nowhere")
    assert again.returncode == 0, again.stderr
    assert "goes on from step 6; --init-from and pretrained weights are not read again" in again.stderr


def test_any_other_failure_shows_its_traceback_and_exits_1(main, monkeypatch, tmp_path):
    def fail(*_):
        raise RuntimeError("something broke")

    monkeypatch.setattr(train, "run", fail)
    code, error = main(*TINY, "--run-dir", tmp_path / "run")
    assert code == 1
    assert "Traceback" in error
    assert "RuntimeError: something broke" in error


def test_training_imports_no_other_framework(bridge_data, tmp_path):
    script = (
        "import sys, train; code = train.main(sys.argv[1:]); "
        "print(sorted({'tensorflow', 'torch', 'transformers', 'tensorboardX', 'wandb'} & set(sys.modules)), code)"
    )
    options = [*TINY, *SAME_STEP, "--data.root", bridge_data, "--run-dir", tmp_path / "run"]
    line = [sys.executable, "-c", script, *map(str, options)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env=one_device(), timeout=300)
    assert done.stdout.strip() == "[] 0", done.stderr
    assert RunDirectory(tmp_path / "run").committed_steps() == [3, 6]
