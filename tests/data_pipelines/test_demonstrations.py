"""Demonstrations of the tabletop environment as RLDS datasets. Needs a GL library for pictures."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from data_pipelines.__main__ import main
from data_pipelines.demos import generation, recording
from data_pipelines.demos.generation import DemonstrationConfig, generate
from data_pipelines.discovery import find_dataset
from data_pipelines.index.dataset_directory import read_directory
from data_pipelines.index.sidecar import open_index
from data_pipelines.table import open_table
from tests.conftest import one_device
from tests.data_pipelines.pipeline_setup import open_generated, requirements
from vla_jax.environments.base import EVALUATION_STATES, open_environment
from vla_jax.types import InputError

pytestmark = pytest.mark.usefixtures("gl_backend")
CONFIG = DemonstrationConfig(
    environment="tabletop", embodiment="gantry", suites=("reach", "goal"), episodes=8, seed=3, image_size=16
)


@pytest.fixture(scope="module")
def root(tmp_path_factory, gl_backend):
    """Both embodiments' datasets."""
    root = tmp_path_factory.mktemp("demonstrations")
    for embodiment in ("gantry", "arm"):
        generate(dataclasses.replace(CONFIG, embodiment=embodiment), root, jobs=1)
    return root


def opened(root: Path, embodiment: str, split: str = "train"):
    dataset = find_dataset(f"tabletop_{embodiment}")
    directory = read_directory(root / dataset.spec.name / dataset.spec.version)
    index = open_index(directory, split, root / "cache", jobs=1)
    return index, open_table(dataset, index, root / "cache")


def shards(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file()}


@pytest.mark.parametrize("embodiment", ["gantry", "arm"])
def test_targets_are_the_commands_not_the_next_states(root, embodiment):
    index, table = opened(root, embodiment)
    action = index.column("steps/action", "number")
    np.testing.assert_allclose(table.columns["target_pose"][:, :3], action[:, :3], atol=1e-6)
    assert table.columns["target_valid"].all()
    first, end = index.first_step[:2]
    following, commanded = table.columns["pose"][first + 1 : end], table.columns["target_pose"][first : end - 1]
    assert np.abs(following - commanded).max() > 1e-5
    assert np.abs(following - commanded)[:, :3].max() < 0.01
    assert set(np.unique(table.columns["target_gripper"])) == {0.0, 1.0}


@pytest.mark.parametrize("embodiment", ["gantry", "arm"])
def test_the_recorded_actions_replay_to_the_recorded_states(root, embodiment):
    """What is recorded is what was executed, noise included."""
    index, _ = opened(root, embodiment)
    state, action = (index.column(f"steps/{key}", "number") for key in ("observation/state", "action"))
    initial = index.column("episode_metadata/initial_state", "number")
    names = index.column("episode_metadata/task", "text")
    with open_environment("tabletop", embodiment=embodiment, image_size=None) as environment:
        for episode in range(2):
            seen = environment.reset(index.texts[names[episode]], int(initial[episode]))
            for step in range(index.first_step[episode], index.first_step[episode + 1]):
                np.testing.assert_allclose(state[step], seen.state, atol=1e-6)
                seen, _ = environment.step(action[step])
            assert environment.success()


def test_splits_and_evaluation_share_no_initial_state(root):
    states = {
        split: opened(root, "gantry", split)[0].column("episode_metadata/initial_state", "number")
        for split in ("train", "val")
    }
    assert len(states["train"]) == 7
    assert len(states["val"]) == 1
    assert not set(states["train"].tolist()) & set(states["val"].tolist())
    assert min(map(min, states.values())) >= EVALUATION_STATES
    attempts = {
        trial.initial_state
        for seed in (0, 1)
        for number in range(50)
        for trial in dataclasses.replace(CONFIG, seed=seed).trials(number)
    }
    assert len(attempts) == 2 * 50 * generation.ATTEMPTS


def test_suites_and_tasks_take_turns():
    trials = [next(CONFIG.trials(number)) for number in range(8)]
    assert [trial.suite for trial in trials] == ["reach", "goal"] * 4
    assert len({trial.task for trial in trials}) == 8


def test_tasks_left_out_are_not_shown_and_the_others_take_turns():
    config = dataclasses.replace(CONFIG, suites=("reach",), without_tasks=("reach_blue", "reach_purple"))
    shown = [next(config.trials(number)).task for number in range(6)]
    assert shown == ["reach_red", "reach_green", "reach_yellow"] * 2


@pytest.mark.parametrize(
    ("suites", "without", "message"),
    [
        (("goal",), ("reach_blue",), "reach_blue"),
        (("reach",), tuple(f"reach_{c}" for c in ("red", "green", "blue", "yellow", "purple")), "nothing is left"),
    ],
)
def test_leaving_out_what_is_not_there_or_everything_is_refused(suites, without, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CONFIG, suites=suites, without_tasks=without)


def test_the_pipeline_reads_both_embodiments(root):
    mixture = {"tabletop_gantry": 1.0, "tabletop_arm": 1.0}
    needs = requirements(cameras=("primary", "wrist"), window=1, horizon=4, normalization="gaussian")
    batch = open_generated(root, mixture=mixture, needs=needs).batch(0)
    assert np.isfinite(batch.action).all()
    assert all(mask.all() for mask in batch.observation.image_masks.values())


def test_pictures_are_jpegs_of_the_size_asked_for(root):
    index, _ = opened(root, "arm")
    for camera in ("primary", "wrist"):
        offset, length = index.column(f"steps/observation/image_{camera}", "image")[0]
        data = index.shards[0].read_bytes()[offset : offset + length]
        assert simplejpeg.decode_jpeg(data).shape == (16, 16, 3)


def test_failures_are_left_out_and_counted(tmp_path, monkeypatch):
    real, tried = recording.record, []

    def fails_first(environment, build_expert, trial):
        tried.append(trial)
        return None if trial.initial_state % generation.ATTEMPTS < 2 else real(environment, build_expert, trial)

    monkeypatch.setattr(recording, "record", fails_first)
    report = generate(dataclasses.replace(CONFIG, suites=("reach",), episodes=3), tmp_path, jobs=1)
    assert sum(report["failures"].values()) == 6
    assert report["expert_success_rate"] == pytest.approx(3 / 9)
    index, _ = opened(tmp_path, "gantry")
    kept = index.column("episode_metadata/initial_state", "number")
    assert len(kept) == 2
    assert all(state % generation.ATTEMPTS == 2 for state in kept)


def test_an_expert_that_fails_is_not_recorded(gl_backend):
    """Three steps are too few to get there."""
    module = generation.find_environment("tabletop")
    with open_environment("tabletop", embodiment="gantry", image_size=None) as environment:
        environment.spec.max_steps["reach"] = 3
        trial = recording.Trial("reach", "reach_red", EVALUATION_STATES, 0, 0.1)
        assert recording.record(environment, module.build_expert, trial) is None


def test_killed_and_run_again_it_gives_the_same_bytes(tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, suites=("reach",), episodes=120)
    options = ["demo", "--embodiment", "gantry", "--episodes", "120", "--seed", "3", "--image-size", "16"]
    command = [sys.executable, "-m", "data_pipelines", *options, "--jobs", "2", "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(command, env=one_device(), start_new_session=True)
    while process.poll() is None and not list(tmp_path.glob("killed/.*/*.json")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "tabletop_gantry").exists()
    done = [notes.with_suffix(".tfrecord") for notes in tmp_path.glob("killed/.*/*.json")]
    stamps = {shard.name: shard.stat().st_mtime_ns for shard in done}
    assert 0 < len(done) < 6
    made, real = [], generation._make
    monkeypatch.setattr(generation, "_make", lambda *arguments: made.append(arguments[1]) or real(*arguments))
    generate(config, tmp_path / "killed", jobs=1)
    assert len(made) == 6 - len(stamps)
    generate(config, tmp_path / "whole", jobs=1)
    killed, whole = (shards(tmp_path / name / "tabletop_gantry" / "1.0.0") for name in ("killed", "whole"))
    assert killed == whole
    assert not list((tmp_path / "killed").glob(".*"))


def test_what_is_there_is_kept_and_other_settings_are_refused(root, capsys):
    folder = root / "tabletop_gantry" / "1.0.0"
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert generate(CONFIG, root, jobs=1)["settings"]["seed"] == 3
    with pytest.raises(InputError, match=r"made with seed 3 \(asked for: 4\)"):
        generate(dataclasses.replace(CONFIG, seed=4), root, jobs=1)
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--embodiment", "arm", "--suite", "cook"], "--suite ['cook']"),
        (["--embodiment", "snake"], "--embodiment snake"),
        (["--embodiment", "arm", "--env", "kitchen"], "no environment 'kitchen'"),
        (["--embodiment", "arm", "--episodes", "1"], "at least 2"),
        (["--embodiment", "arm", "--image-size", "4"], "8 to 640"),
    ],
)
def test_bad_settings_exit_2_and_leave_nothing(tmp_path, capsys, options, message):
    assert main(["demo", *options, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
