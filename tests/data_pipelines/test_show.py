"""show: the batch that training gets, drawn, with the time of its stages."""

import dataclasses
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.__main__ import main
from data_pipelines.commands import show
from data_pipelines.config import CropConfig, DataConfig, MixtureEntry, TaskConfig
from data_pipelines.report.sample import shown_samples
from data_pipelines.report.stages import time_batches
from tests.data_pipelines.pipeline_setup import BOTH, open_generated, requirements
from tests.rlds_episodes import colour_of
from vla_jax.types import BoxRequirement

ROOT = Path(__file__).resolve().parents[2]
NEEDS = requirements(window=3, anchor="last", normalization="gaussian", cameras=("primary", "secondary"))


def recipe(needs, root: Path, **data) -> types.SimpleNamespace:
    entries = tuple(MixtureEntry(name=name, weight=weight) for name, weight in BOTH.items())
    return types.SimpleNamespace(
        policy=types.SimpleNamespace(data_requirements=lambda: needs),
        action_space=needs.action_space,
        data=DataConfig(root=str(root), mixture=entries, **data),
        seed=5,
        batch_size=6,
    )


def run(config, tmp_path: Path, monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(show, "load_recipe", lambda name: config)
    options = ["--config", "configs/x.py", "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    return main(["show", *options, *arguments])


def test_numbers_are_those_of_the_batch_that_training_gets(two_datasets, tmp_path, monkeypatch, capsys):
    assert run(recipe(NEEDS, two_datasets, crop=None), tmp_path, monkeypatch, "--step", "2", "--samples", "3") == 0
    tree = json.loads((tmp_path / "out/numbers.json").read_text())
    with_datasets = open_generated(two_datasets, mixture=BOTH, needs=NEEDS, seed=5, batch_size=6)
    batch = with_datasets.batch(2)
    assert {sample["dataset"] for sample in tree["samples"]} == set(BOTH)
    for row, sample in enumerate(tree["samples"]):
        dataset, episode, step = batch.sample_ids[row].tolist()
        assert (sample["dataset"], sample["episode"], sample["step"]) == (list(BOTH)[dataset], episode, step)
        np.testing.assert_array_equal(np.float32(sample["normalised_action"]), batch.action[row])
        np.testing.assert_array_equal(np.float32(sample["normalised_proprio"]), batch.observation.proprio[row])
        np.testing.assert_array_equal(sample["action_mask"], batch.action_mask[row])
        np.testing.assert_array_equal(sample["window_mask"], batch.observation.timestep_mask[row])
        normalize, _ = with_datasets.assembler.normalizers[dataset]
        np.testing.assert_allclose(normalize(np.float32(sample["action"])), batch.action[row], atol=1e-6)
        assert str(episode) in sample["instruction"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "numbers.json",
        *(f"sample_0{row}.png" for row in range(3)),
    ]
    out = capsys.readouterr().out
    assert "images a CPU-second" in out
    assert "cut and resize" in out


def test_a_sheet_shows_the_pictures_as_read_and_as_seen(two_datasets, tmp_path, monkeypatch):
    assert run(recipe(NEEDS, two_datasets), tmp_path, monkeypatch, "--samples", "1") == 0
    sample = json.loads((tmp_path / "out/numbers.json").read_text())["samples"][0]
    picture = np.asarray(Image.open(tmp_path / "out/sample_00.png").convert("RGB")).astype(int)
    cameras = (0, 1) if sample["dataset"] == "bridge_dataset" else (3,)
    for camera in cameras:
        colour = colour_of(sample["episode"], sample["step"], camera)
        near = (np.abs(picture - colour).max(-1) <= 4).sum()
        assert near > 2 * 80 * 80, f"camera {camera}: {near} pixels of its colour"


def test_goals_boxes_pairs_and_crops_are_shown(two_datasets, tmp_path):
    needs = dataclasses.replace(
        NEEDS, goals=("primary",), boxes=BoxRequirement(count=4, missing="grid"), pair_offset=2, window=2
    )
    crop = CropConfig(scale=(0.5, 0.5), slots=("primary",))
    pipeline = open_generated(
        two_datasets, needs=needs, crop=crop, task=TaskConfig(keep_goal=None), cache=tmp_path / "cache"
    )
    samples = shown_samples(pipeline, 0, 4)
    for sample in samples:
        pictures = sample.pictures["primary"]
        left, upper, right, lower = sample.chosen.geometries["primary"].box
        assert (right - left) * (lower - upper) == pytest.approx(0.5, abs=1e-6)
        assert pictures.goal.shape == (16, 16, 3)
        assert pictures.later.shape == (2, 16, 16, 3)
        assert pictures.as_read[-1].shape == (32, 32, 3)
        assert (pictures.as_read[0] is None) == (not sample.chosen.mask[0])
        assert sum(map(len, pictures.visible_boxes())) > 0
        assert sample.tree()["goal_row"] >= sample.chosen.row
    show.draw_sheet(tmp_path / "sheet.png", samples[0], needs)
    assert Image.open(tmp_path / "sheet.png").width == 1500


@pytest.mark.parametrize("access", ["frame", "episode"])
def test_every_stage_is_found_and_counted(two_datasets, tmp_path, access):
    """A function of the pipeline that is renamed must not fall out of the table unseen."""
    needs = dataclasses.replace(NEEDS, goals=("primary",), boxes=BoxRequirement(count=4, missing="grid"))
    pipeline = open_generated(
        two_datasets,
        mixture=BOTH,
        needs=needs,
        crop=CropConfig(),
        cache=tmp_path / "cache",
        access=access,
        batch_size=8,
    )
    timing = time_batches(pipeline, 0, 8)
    stages = {stage.name: stage for stage in timing.stages}
    assert set(stages) == {
        *("choose windows", "read bytes", "decode", "draw crop and task", "cut and resize", "find instruction"),
        *("gather numbers", "proprio and targets", "normalise", "boxes", "tokenise", "the rest"),
    }
    assert all(stage.milliseconds > 0 for stage in timing.stages)
    assert stages["tokenise"].calls == 1
    assert stages["find instruction"].calls == 8
    assert stages["decode"].calls == stages["cut and resize"].calls == timing.num_pictures
    assert 8 * 2 < timing.num_pictures <= 8 * (3 * 2 + 1)
    assert timing.images_per_cpu_second > 0


def test_keys_after_the_recipe_change_it_as_in_training(bridge_data, tmp_path, capsys):
    arguments = ["show", "--config", str(ROOT / "configs/ef_vla_bridge.py:tiny"), "--data.root", str(bridge_data)]
    arguments += ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"), "--samples", "9"]
    assert main([*arguments, "--batch-size", "2", "--data.crop.scale", "0.25", "0.25"]) == 0
    tree = json.loads((tmp_path / "out/numbers.json").read_text())
    assert len(tree["samples"]) == tree["timing"]["num_samples"] == 2
    for sample in tree["samples"]:
        left, upper, right, lower = sample["geometries"]["primary"]["box"]
        assert (right - left) * (lower - upper) == pytest.approx(0.25)
    assert len(tree["samples"][0]["action"][0]) == 4  # the variant's horizon
    capsys.readouterr()
    assert main([*arguments, "--data.rot", "x"]) == 2
    assert capsys.readouterr().err.startswith("--data.rot: no such key")
    with pytest.raises(SystemExit) as stopped:
        main(["index", str(bridge_data), "--data.root", "x"])
    assert stopped.value.code == 2


def test_bad_input_is_one_message_and_exit_2(two_datasets, tmp_path, monkeypatch, capsys):
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    for arguments, message in (
        (["--out", str(other)], "a folder with other files in it"),
        (["--step", "-1"], "a number from 0 on"),
        (["--rrd", str(tmp_path / "none/x.rrd")], "none is no folder that can be written"),
    ):
        assert run(recipe(NEEDS, two_datasets), tmp_path, monkeypatch, *arguments) == 2
        assert message in capsys.readouterr().err
    assert run(types.SimpleNamespace(action_space=NEEDS.action_space), tmp_path, monkeypatch) == 2
    assert "no policy that says what it reads" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    assert (other / "thesis.tex").read_text() == "mine"


def test_a_recording_needs_rerun_and_says_so_before_the_work(two_datasets, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rerun", None)
    assert run(recipe(NEEDS, two_datasets), tmp_path, monkeypatch, "--rrd", str(tmp_path / "x.rrd")) == 2
    assert "pip install -r requirements-rerun.txt" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_recording_is_written(two_datasets, tmp_path, monkeypatch):
    pytest.importorskip("rerun", reason="SKIPPED: rerun-sdk is not installed (requirements-rerun.txt)")
    assert (
        run(recipe(NEEDS, two_datasets), tmp_path, monkeypatch, "--samples", "1", "--rrd", str(tmp_path / "x.rrd")) == 0
    )
    assert (tmp_path / "x.rrd").read_bytes()[:3] == b"RRF"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out", "x.rrd"]
