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
from vla_jax.language.tokenizer import TokenizerConfig
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
        (
            [*TINY, "--learning-rate", "1"],
            r"train\.py: --learning-rate: no such key; `train.py --config RECIPE --help` lists those there are$",
        ),
        (
            [*TINY, "--policy.trunk.num-heds", "1"],
            r"train\.py: --policy.trunk.num-heds: no such key; did you mean --policy.trunk.num-heads or ",
        ),
        ([*TINY, "--num-steps", "many"], r"train\.py: --num-steps: .*'many'$"),
        ([*TINY, "--num-steps", "0"], r"train\.py: num_steps=0: at least 1 expected$"),
        ([*TINY, "--data.max-bad-share", "3"], r"train\.py: data.max_bad_share=3.0: a share from 0 to 1 is expected$"),
        (
            [*TINY, "--augmentation.slots", "primary", "primry"],
            r"train\.py: augmentation.slots: no dataset has a camera 'primry'; there are .*'primary'",
        ),
        (
            [*TINY, "--augmentation.kept-slot", "primry"],
            r"train\.py: augmentation.kept_slot: no dataset has a camera 'primry'",
        ),
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import os\ndef get_config(:\n", r"broken.py, line 2: invalid syntax"),
        (
            "import os\nfrom vla_jax.types import Missing\n",
            "broken.py, line 2: ImportError: cannot import name 'Missing'",
        ),
        ("import no_such_module\n", "broken.py, line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def get_config():\n    import no_such_module\n", "broken.py, line 2: ModuleNotFoundError"),
    ],
)
def test_a_recipe_that_cannot_be_read_or_imported_is_bad_input(main, tmp_path, content, message):
    (tmp_path / "broken.py").write_text(content)
    code, error = main("--config", tmp_path / "broken.py", "--run-dir", tmp_path / "run")
    assert code == 2
    assert re.search(rf"train\.py: --config .*{message}", error), error
    assert "Traceback" not in error


@pytest.mark.parametrize("inside", ["", "run"])
def test_a_run_directory_that_is_a_file_is_refused_first(main, tmp_path, inside):
    (tmp_path / "file").write_text("mine")
    code, error = main(*TINY, "--data.root", "/nowhere", "--run-dir", tmp_path / "file" / inside)
    assert code == 2
    assert f"train.py: --run-dir {tmp_path / 'file' / inside}: {tmp_path / 'file'} is a file; a folder" in error
    assert (tmp_path / "file").read_text() == "mine"


def test_overrides_are_typed_and_reach_into_the_recipe():
    config = recipe.override(
        recipe.load(TINY[1]),
        ["--optimizer.peak-rate", "1e-5", "--mesh.fsdp", "2", "--data.cache", "/c", "--ema-decay", "None"],
        program="train.py",
    )
    assert (config.optimizer.peak_rate, config.mesh.fsdp, config.data.cache) == (1e-5, 2, "/c")
    assert config.ema_decay is None
    assert recipe.override(config, [], program="train.py") == config


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_an_unknown_key_is_named_alone_whatever_the_terminal_prints(encoding):
    line = [sys.executable, "train.py", *TINY, "--foo", "1", "--seeed=3"]
    environment = one_device() | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "train.py: --foo, --seeed: no such key; did you mean --seed?\n"


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


def test_other_data_are_refused_for_a_run_that_stands(main, tiny_run, other_data, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    before = all_but_logs(run)
    eight_devices = ["--mesh.data", 4, "--mesh.tensor", 2]
    places = ["--data.root", other_data, "--data.cache", tmp_path / "cache", "--run-dir", run]
    code, error = main(*TINY, *SAME_STEP, *eight_devices, *places)
    assert code == 2
    keys = [
        load_key(folder) for folder in (run / "checkpoints" / "6", *(tmp_path / "cache").rglob("statistics-*.json"))
    ]
    assert len(set(keys)) == 2
    assert f"6/dataset_statistics.json: dataset bridge_dataset has key {keys[0]} in the run, {keys[1]} now" in error
    assert "What differs: shards: " in error
    assert "--init-from" in error
    assert all_but_logs(run) == before


def all_but_logs(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.parent != run / "logs"}


def load_key(path):
    if path.is_dir():
        return json.loads((path / "dataset_statistics.json").read_text())["bridge_dataset"]["key"]
    return json.loads(path.read_text())["key"]


def test_the_same_data_elsewhere_are_not_other_data(tiny_run, bridge_data, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    shutil.copytree(bridge_data, tmp_path / "copy")
    done = command(*TINY, *SAME_STEP, "--data.root", tmp_path / "copy", "--run-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "goes on from step 6" in done.stderr


def test_a_first_start_that_was_refused_is_mended_in_the_same_run_directory(bridge_data, tmp_path):
    run = RunDirectory(tmp_path / "run")
    options = [*TINY, *SAME_STEP, "--data.root", bridge_data, "--run-dir", run.path]
    first = command(*options, "--no-allow-random-frozen")
    assert first.returncode == 2
    assert "the frozen part clip has no weights" in first.stderr
    assert not any(path.exists() for path in (run.config, run.environment, run.tokenizer, run.frozen, run.metrics))
    mended = command(*options, "--allow-random-frozen")
    assert mended.returncode == 0, mended.stderr
    assert run.committed_steps() == [3, 6]


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
    source = tmp_path / "source"
    shutil.copytree(tiny_run, source)
    TokenizerConfig(vocab_size=300).build(16).save(source / "tokenizer")
    first = command(*options, "--init-from", source)
    assert first.returncode == 0, first.stderr
    vocabularies = [(place / "tokenizer" / "tokenizer.json").read_bytes() for place in (run, source, tiny_run)]
    assert vocabularies[0] == vocabularies[1] != vocabularies[2]
    ours, theirs = (load_parameters(folder, weights="raw") for folder in (run, tiny_run))
    moved = {path: abs(ours.parameters[path] - array).max() for path, array in theirs.parameters.items()}
    assert all(distance == 0 for path, distance in moved.items() if path.startswith("clip/"))
    assert 0 < max(moved.values()) < 0.02, "six small steps from the other run's weights, not from random ones"
    assert ours.statistics() != theirs.statistics()
    again = command(*options, "--init-from", "/nowhere")
    assert again.returncode == 0, again.stderr
    assert "goes on from step 6; --init-from and pretrained weights are not read again" in again.stderr
    assert json.loads((run / "env.json").read_text())["init_from"] == str(source)
    shutil.rmtree(run / "checkpoints")
    forgotten = command(*options)
    assert forgotten.returncode == 2
    assert f"env.json: this run began with --init-from {source} and has no checkpoint yet" in forgotten.stderr


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
