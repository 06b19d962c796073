"""A stream of trajectories gives the pipeline's own batches, in an order of its own; what does not fit is named."""

import dataclasses
import itertools
import json
import multiprocessing.connection
import sys

import numpy as np
import pytest
import simplejpeg
from pipeline_setup import open_generated, requirements, tokenize_bytes
from trajectory_stream import NumpyStream, assert_equal, expected_rows

from data_pipelines.compatibility.process import SeparateProcess
from data_pipelines.compatibility.rlds import rlds_trajectories
from data_pipelines.compatibility.stream import open_stream
from data_pipelines.compatibility.trajectories import Trajectories
from data_pipelines.config import CropConfig, DataConfig
from data_pipelines.discovery import Dataset, find_dataset
from vla_jax.types import BoxRequirement, InputError

BRIDGE = find_dataset("bridge_dataset")
WINDOWS = 8 + 5 + 2
"""Of episodes of 10, 7 and 4 steps, three steps long."""


def open_bridge(elements, needs=None, *, dataset=BRIDGE, batch_size=4, statistics=None, quarantine=None, **data):
    config = DataConfig(root="", **({"crop": None, "pool_episodes": 2} | data))
    trajectories = Trajectories(elements, dataset)
    arguments = {"seed": 5, "batch_size": batch_size, "statistics": statistics, "quarantine": quarantine}
    return open_stream(trajectories, config, needs or requirements(), tokenize_bytes, **arguments)


def bridge(root, edit=lambda number, trajectory: trajectory):
    return NumpyStream(root / "bridge_dataset" / "1.0.0", edit)


def first(stream, number, start=0, rows=None):
    with stream.batches(start, rows) as batches:
        return list(itertools.islice(batches, number))


@pytest.mark.parametrize("crop", [None, CropConfig()])
def test_every_window_is_what_the_pipeline_makes_of_it(two_datasets, crop):
    needs = requirements(normalization="gaussian", cameras=("primary", "wrist", "secondary"))
    pipeline = open_generated(two_datasets, needs=needs, crop=crop)
    stream = open_bridge(bridge(two_datasets), needs, crop=crop, statistics=pipeline.statistics)
    for batch in first(stream, 8):
        assert_equal(batch, expected_rows(pipeline, batch))


def test_an_epoch_has_every_window_once_in_an_order_that_changes(two_datasets):
    ids = np.concatenate([batch.sample_ids for batch in first(open_bridge(bridge(two_datasets)), 8)])[: 2 * WINDOWS]
    epochs = [[tuple(row) for row in ids[:WINDOWS]], [tuple(row) for row in ids[WINDOWS:]]]
    every = [(0, episode, step) for episode, windows in enumerate((8, 5, 2)) for step in range(windows)]
    assert [sorted(epoch) for epoch in epochs] == [every, every]
    assert epochs[0] != epochs[1]
    assert epochs[0] != every


def test_a_resume_and_each_hosts_rows_are_parts_of_the_same_batches(two_datasets):
    stream = open_bridge(bridge(two_datasets))
    whole = first(stream, 7)
    for batch, later in zip(whole[4:], first(stream, 3, start=4), strict=True):
        assert_equal(later, batch)
    upper, lower = first(stream, 7, rows=slice(0, 2)), first(stream, 7, rows=slice(2, 4))
    for batch, parts in zip(whole, zip(upper, lower)):
        np.testing.assert_array_equal(np.concatenate([part.action for part in parts]), batch.action)
        np.testing.assert_array_equal(np.concatenate([part.sample_ids for part in parts]), batch.sample_ids)


def test_pools_do_not_change_what_statistics_say(two_datasets):
    ours = open_bridge(bridge(two_datasets), requirements(normalization="gaussian"), pool_episodes=1)
    files = open_generated(two_datasets, needs=requirements(normalization="gaussian")).statistics["bridge_dataset"]
    for part in ("action", "proprio"):
        for name in ("mean", "std", "q01", "q99"):
            np.testing.assert_allclose(ours.statistics["bridge_dataset"][part][name], files[part][name], atol=1e-12)
    assert ours.statistics["bridge_dataset"]["num_transitions"] == 21


def decoded(number, trajectory):
    pictures = trajectory["observation"]["image_0"]
    trajectory["observation"]["image_0"] = np.stack([simplejpeg.decode_jpeg(picture, "RGB") for picture in pictures])
    return trajectory


def test_pictures_that_the_transform_decoded_are_the_same(two_datasets):
    for ours, theirs in zip(
        first(open_bridge(bridge(two_datasets, decoded)), 3), first(open_bridge(bridge(two_datasets)), 3)
    ):
        assert_equal(ours, theirs)


def under_steps(number, trajectory):
    return {"steps": trajectory, "episode_metadata": {"episode_id": np.int32(number)}}


def test_a_transform_may_write_keys_of_its_own(two_datasets):
    """With a SPEC and `standardize` for them; here the columns of schema.py themselves."""

    def transform(number, trajectory):
        raw = {"action": trajectory["action"], "observation/state": trajectory["observation"]["state"]}
        columns = BRIDGE.standardize(raw)
        return columns | {"task": trajectory["language_instruction"], "camera": trajectory["observation"]["image_0"]}

    names = ("pose", "gripper", "delta", "target_gripper", "target_pose", "target_valid")
    spec = dataclasses.replace(BRIDGE.spec, numbers=names, languages=("task",), cameras={"primary": "camera"})
    own = open_bridge(bridge(two_datasets, transform), dataset=Dataset(spec, lambda raw: raw, {}))
    for ours, theirs in zip(first(own, 3), first(open_bridge(bridge(two_datasets, under_steps)), 3)):
        assert_equal(ours, theirs)


def test_a_bad_picture_is_replaced_and_listed(two_datasets, tmp_path):
    def damage(number, trajectory):
        if number == 1:
            trajectory["observation"]["image_0"][2] = b"\xff\xd8 torn"
        return trajectory

    stream = open_bridge(bridge(two_datasets, damage), quarantine=tmp_path / "quarantine.jsonl", max_bad_share=1.0)
    batches = first(stream, 4)
    assert stream.num_replaced
    (line,) = map(json.loads, (tmp_path / "quarantine.jsonl").read_text().splitlines())
    assert (line["episode"], line["step"], line["file"]) == (1, 2, "stream")
    for batch in batches:
        assert all(batch.observation.images["primary"].reshape(len(batch.action), -1).any(1))


def test_a_process_of_its_own_gives_the_same_and_ends(two_datasets, tmp_path):
    (tmp_path / "made_elsewhere.py").write_text(
        "import os\nfrom pathlib import Path\nfrom trajectory_stream import NumpyStream\n"
        "def make():\n    assert os.environ['CUDA_VISIBLE_DEVICES'] == ''\n"
        f"    return NumpyStream(Path({str(two_datasets / 'bridge_dataset' / '1.0.0')!r}))\n"
    )
    sys.path.insert(0, str(tmp_path))
    before = set(multiprocessing.active_children())
    try:
        import made_elsewhere

        process = SeparateProcess(made_elsewhere.make)
        apart = first(open_bridge(process, statistics=statistics(two_datasets)), 5)
        (started,) = set(multiprocessing.active_children()) - before
        process.close()
    finally:
        sys.path.remove(str(tmp_path))
    # Not `join` and `is_alive`: the executor's thread reaps it at the same moment, and then it may seem alive.
    assert multiprocessing.connection.wait([started.sentinel], timeout=20)
    for ours, theirs in zip(apart, first(open_bridge(bridge(two_datasets)), 5), strict=True):
        assert_equal(ours, theirs)


def statistics(root):
    return open_bridge(bridge(root)).statistics


def without(key):
    def edit(number, trajectory):
        del trajectory["observation"][key]
        return trajectory

    return edit


def shorter(number, trajectory):
    return trajectory | {"action": trajectory["action"][1:]}


def as_text(number, trajectory):
    return trajectory | {"action": trajectory["action"].astype("U")}


def as_floats(number, trajectory):
    decoded(number, trajectory)
    trajectory["observation"]["image_0"] = trajectory["observation"]["image_0"] / 255
    return trajectory


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (without("state"), r"trajectory 0 .*no \['observation/state'\].*'observation/image_0'.*SPEC"),
        (without("image_0"), r"no \['observation/image_0'\]"),
        (shorter, r"'action': 9.*'observation/state': 10"),
        (as_text, r"'action': '<U\d+'.*numbers are expected"),
        (as_floats, r"'observation/image_0' has float64 \(10, 32, 32, 3\).*uint8"),
        (lambda number, trajectory: (trajectory,), "is a tuple; a dict"),
    ],
)
def test_a_trajectory_that_does_not_fit_is_named_with_what_is_wrong(two_datasets, edit, named):
    with pytest.raises(InputError, match=named):
        open_bridge(bridge(two_datasets, edit))


def test_streams_that_cannot_be_read_are_refused(two_datasets):
    class Endless(NumpyStream):
        def cardinality(self):
            return -1

    class Flat(NumpyStream):
        is_flattened = True

    folder = two_datasets / "bridge_dataset" / "1.0.0"
    needs = dataclasses.replace(requirements(), boxes=BoxRequirement())
    cases = [
        (Endless(folder), None, "never ends.*`statistics`"),
        (Flat(folder), None, "flattened to frames"),
        ([{}], None, "list is no tf.data.Dataset"),
        (bridge(two_datasets), needs, "boxes"),
        (bridge(two_datasets), requirements(cameras=("left_wrist",)), r"no camera of \['left_wrist'\]"),
    ]
    for elements, asked, named in cases:
        with pytest.raises(InputError, match=named):
            open_bridge(elements, asked)


def test_without_tensorflow_the_requirements_file_is_named(two_datasets, monkeypatch):
    for name in ("dlimp", "tensorflow", "tensorflow_datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"pip install --no-deps -r requirements-dlimp\.txt"):
        rlds_trajectories(two_datasets / "bridge_dataset" / "1.0.0", "train")
