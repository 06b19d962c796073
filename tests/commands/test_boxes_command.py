"""`boxes`: a tiny SAM makes the sidecar of generated data; killed, changed and damaged on the way."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.box_making import BoxMaking
from data_pipelines.boxes import boxes_folder, open_boxes
from data_pipelines.discovery import find_dataset
from data_pipelines.index.dataset_directory import read_directory
from data_pipelines.index.sidecar import open_index
from tests.conftest import ROOT, one_device
from tests.data_pipelines.pipeline_setup import open_generated, requirements
from tests.parity import randomize
from tests.rlds_episodes import BRIDGE_CAMERAS, write_bridge
from vla_jax.__main__ import main
from vla_jax.encoders import sam
from vla_jax.types import BoxRequirement, InputError

torch = pytest.importorskip("torch")

STEPS = 21
LIMITS = ("--smallest-quality=0", "--smallest-stability=0", "--smallest-area=0", "--largest-area=1")
FILES = ("boxes.npy", "mask.npy", "target.npy", "boxes.json")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    from transformers import SamConfig, SamModel

    folder = tmp_path_factory.mktemp("sam")
    model = randomize(SamModel(SamConfig(**sam.tiny().settings())), scale=0.5)
    with torch.no_grad():
        model.mask_decoder.upscale_conv2.bias.sub_(2)  # masks of some pixels, not of nearly all
    model.save_pretrained(folder)
    return folder


def damaged(episode, content):
    if episode == 1:
        content[BRIDGE_CAMERAS[0]][2] = content[BRIDGE_CAMERAS[0]][2][:20]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The third picture of the second episode is cut off."""
    return write_bridge(tmp_path_factory.mktemp("data"), edit=damaged)


def arguments(data, weights, cache, *more) -> list[str]:
    options = ["--points", 2, "--batch", 2, "--part", 4, "--count", 3, "--jobs", 1, *LIMITS, *more]
    return list(map(str, ["boxes", data, "--sam", weights, "--cache", cache, *options]))


def sidecar(data, cache) -> dict[str, bytes]:
    folder = cache / data.parent.name / data.name / "train" / "boxes-primary"
    assert not (folder.parent / "making-boxes").exists()
    assert {file.name for file in folder.iterdir()} == set(FILES)
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def cache(data, weights, tmp_path_factory) -> Path:
    """With the sidecar that was made at one go."""
    path = tmp_path_factory.mktemp("cache")
    assert main(arguments(data, weights, path)) == 0
    return path


def test_training_reads_the_boxes_and_the_unreadable_picture_has_none(data, cache):
    index = open_index(read_directory(data), "train", cache)
    boxes = open_boxes(index, BoxRequirement(count=3), cache)

    assert boxes.boxes.shape == (STEPS, 3, 4)
    bad = 10 + 2
    assert boxes.mask.any(1).tolist() == [row != bad for row in range(STEPS)]
    assert not boxes.boxes[bad].any()
    given = boxes.boxes[boxes.mask]
    assert (given >= 0).all()
    assert (given <= 1).all()
    assert (given[:, 2:] > given[:, :2]).all()
    assert (boxes.target == -1).all()
    assert len(np.unique(given, axis=0)) > 4

    needs = requirements(window=1)
    needs = type(needs)(**vars(needs) | {"boxes": BoxRequirement(count=3, smallest_side=0.0)})
    batch = open_generated(data.parent.parent, needs=needs, cache=cache, batch_size=16).batch(0)
    for boxes_seen, mask, (_, episode, step) in zip(
        batch.observation.boxes, batch.observation.box_masks, batch.sample_ids
    ):
        row = index.first_step[episode] + step
        np.testing.assert_allclose(boxes_seen[0], boxes.boxes[row], atol=1e-6)
        np.testing.assert_array_equal(mask[0], boxes.mask[row])


def test_what_is_there_is_not_made_again(data, weights, cache, capsys, caplog):
    before = sidecar(data, cache)
    folder = cache / "bridge_dataset" / "1.0.0" / "train" / "boxes-primary"
    stamp = (folder / "boxes.npy").stat().st_mtime_ns
    assert main(arguments(data, weights, cache, "--batch", 3)) == 0

    shown = capsys.readouterr()
    assert f"boxes in {STEPS} pictures of primary, 1 pictures are unreadable and have none" in shown.out
    assert sidecar(data, cache) == before
    assert (folder / "boxes.npy").stat().st_mtime_ns == stamp


def test_other_settings_and_weights_are_refused_by_name(data, weights, cache, tmp_path, capsys):
    def refusal(*more, sam_weights=weights):
        assert main(arguments(data, sam_weights, cache, *more)) == 2
        return capsys.readouterr().err

    assert "made with points=2, now it is 3" in refusal("--points", 3)
    assert "made with largest_overlap=0.7, now it is 0.5" in refusal("--largest-overlap", 0.5)
    assert "no camera 'wrst'; it has ['primary'" in refusal("--slot", "wrst")
    assert "no split 'test'; it has ['train']" in refusal("--splits", "test")

    from transformers import SamConfig, SamModel

    randomize(SamModel(SamConfig(**sam.tiny().settings())), seed=1).save_pretrained(tmp_path / "other")
    assert "made with weights=" in refusal(sam_weights=tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"model_type": "clip"}))
    assert "model_type is 'clip', expected 'sam'" in refusal(sam_weights=tmp_path / "other")


def test_killed_and_started_again_gives_the_same_bytes(data, weights, cache, tmp_path):
    command = [sys.executable, "-m", "vla_jax", *arguments(data, weights, tmp_path)]
    parts = tmp_path / "bridge_dataset" / "1.0.0" / "train" / "making-boxes" / "primary"
    process = subprocess.Popen(
        command, cwd=ROOT, env=one_device(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while len(list(parts.glob("0*.npz"))) < 2:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = {part: part.stat().st_mtime_ns for part in parts.glob("0*.npz")}
    assert 2 <= len(done) < 6
    newest = max(done)
    newest.write_bytes(newest.read_bytes()[:100])  # as a machine that lost its power leaves it

    assert main(arguments(data, weights, tmp_path, "--points", 3)) == 2
    assert {part: part.stat().st_mtime_ns for part in done if part != newest}.items() <= done.items()

    assert main(arguments(data, weights, tmp_path)) == 0
    assert sidecar(data, tmp_path) == sidecar(data, cache)


def test_an_imported_folder_gives_the_same_boxes(data, weights, cache, tmp_path):
    assert main(["import", "--family", "sam", "--from", str(weights), "--out", str(tmp_path / "imported")]) == 0
    assert main(arguments(data, tmp_path / "imported", tmp_path / "cache")) == 0

    ours, theirs = sidecar(data, tmp_path / "cache"), sidecar(data, cache)
    assert {name: ours[name] == theirs[name] for name in FILES[:3]} == dict.fromkeys(FILES[:3], True)


# ---- the maker, with a detector of one box


def making(data, cache, detect, **changes):
    directory = read_directory(data)
    given = {"spec": find_dataset(directory.name).spec, "slot": "primary", "settings": {"detector": 1}}
    given |= {"index": open_index(directory, "train", cache), "batch_size": 3, "part_steps": 5}
    return BoxMaking(cache=cache, detect=detect, **given | changes)


def whole_picture(pictures):
    return np.tile(np.float32([0, 0, 1, 1]), (len(pictures), 1, 1)), np.ones((len(pictures), 1), bool)


def test_finished_parts_are_not_detected_again(data, tmp_path, caplog):
    seen = []

    def detect(pictures):
        if len(seen) >= 4:  # of the third part
            raise RuntimeError("out of memory")
        seen.append(len(pictures))
        return whole_picture(pictures)

    with pytest.raises(RuntimeError):
        making(data, tmp_path, detect).make()
    assert seen == [3, 2, 3, 2]
    seen.clear()
    with pytest.raises(InputError, match=r"settings.json: boxes were made with detector=1, now it is 2"):
        making(data, tmp_path, detect, settings={"detector": 2}).make()

    with caplog.at_level(logging.WARNING):
        made = making(data, tmp_path, lambda p: seen.append(len(p)) or whole_picture(p)).make()
    assert seen == [2, 2, 3, 2, 1]  # the third picture of the third part is unreadable
    assert made[1:] == (STEPS, STEPS - 1, 1)
    assert "bridge_dataset episode 1 step 2: no boxes: camera primary" in caplog.text


def test_boxes_of_other_data_are_made_again_and_those_of_others_are_not_touched(data, tmp_path):
    first = making(data, tmp_path, whole_picture)
    folder = first.make().folder
    assert folder == boxes_folder(first.index, "primary", tmp_path)
    about = json.loads((folder / "boxes.json").read_text())
    (folder / "boxes.json").write_text(json.dumps(about | {"index": "0" * 64}))
    assert making(data, tmp_path, whole_picture).make().num_boxes == STEPS - 1
    assert json.loads((folder / "boxes.json").read_text()) == about

    (folder / "boxes.json").write_text(json.dumps({"index": first.index.digest}))
    with pytest.raises(InputError, match=r"boxes.json: boxes were made with detector=None, now it is 1"):
        making(data, tmp_path, whole_picture).make()
