"""Kinds of features: depth in every form that is published, packed numbers, code points, keys with slashes, PNG."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image
from pipeline_setup import open_generated, requirements

from data_pipelines.index.dataset_directory import Feature, read_directory
from data_pipelines.index.sidecar import open_index
from data_pipelines.source import BadRecordError
from data_pipelines.spec import Depth
from data_pipelines.writer import DatasetWriter
from tests import rlds_episodes
from tests.rlds_episodes import colour_of, write_bridge
from vla_jax.types import InputError

SIZE, LENGTH = (40, 33), 4
DEPTHS = {
    "png16": Feature("image", (*SIZE, 1), "uint16"),
    "png8": Feature("image", (*SIZE, 1), "uint8"),
    "float_image": Feature("image", (*SIZE, 1), "float32"),
    "floats": Feature("array", SIZE, "float32"),
    "integers": Feature("array", (*SIZE, 1), "int32"),
    "packed": Feature("array", SIZE, "float32", encoding="zlib"),
}


def depth(name, step):
    generator = np.random.default_rng((sorted(DEPTHS).index(name), step))
    dtype = DEPTHS[name].dtype
    if dtype == "float32":
        return generator.normal(size=SIZE).astype(np.float32)
    largest = {"uint16": 1 << 16, "uint8": 1 << 8, "int32": 1 << 20}[dtype]
    return generator.integers(0, largest, SIZE).astype(dtype)


def stored(name, step):
    numbers = depth(name, step)
    if DEPTHS[name].kind == "array":
        return numbers.reshape(DEPTHS[name].shape)
    picture = io.BytesIO()
    if name == "float_image":  # as TFDS does
        numbers = numbers.view(np.uint8).reshape(*SIZE, 4)
    Image.fromarray(numbers).save(picture, "PNG")
    return picture.getvalue()


@pytest.fixture
def with_depths(tmp_path, monkeypatch):
    features = {f"steps/observation/{name}": feature for name, feature in DEPTHS.items()}
    monkeypatch.setattr(rlds_episodes, "BRIDGE", rlds_episodes.BRIDGE | features)

    def edit(_, episode):
        for name in DEPTHS:
            episode[f"steps/observation/{name}"] = [stored(name, step) for step in range(LENGTH)]
        episode["steps/observation/png8"][2] = b"nothing"

    write_bridge(tmp_path, lengths=(LENGTH, LENGTH), edit=edit)
    source = open_generated(tmp_path).sources[0]
    depths = {name: Depth(key=f"observation/{name}", metres=None) for name in DEPTHS}
    spec = dataclasses.replace(source.dataset.spec, depths=depths)
    return dataclasses.replace(source, dataset=dataclasses.replace(source.dataset, spec=spec))


@pytest.mark.parametrize("name", sorted(DEPTHS))
def test_depth_is_read_as_it_was_stored(with_depths, name):
    for row in (0, LENGTH - 1, LENGTH + 1):
        read = with_depths.read_depth(name, row)
        assert read.dtype == DEPTHS[name].dtype
        np.testing.assert_array_equal(read, depth(name, row % LENGTH))


def test_an_undecodable_depth_is_a_bad_record(with_depths):
    with pytest.raises(BadRecordError, match="camera png8: depth: an undecodable picture"):
        with_depths.read_depth("png8", 2)


def write_small(folder, features, episode, **arguments):
    writer = DatasetWriter("small", "1.0.0", features, **arguments)
    writer.write(folder / "small" / "1.0.0", {"train": [episode]}, episodes_per_shard=1)
    return folder / "small" / "1.0.0"


def index_of(folder, cache):
    return open_index(read_directory(folder), "train", cache)


def test_packed_numbers_keys_with_slashes_and_code_points_are_indexed(tmp_path):
    features = {
        "steps/observation/clip/pose": Feature("number", (7,), "float32", encoding="zlib"),
        "steps/observation/gripper": Feature("number", (1,), "float64", encoding="bytes"),
        "steps/observation/instruction": Feature("text", (512,), "int32"),
        "steps/action/future/xyz": Feature("number", (3,), "float32"),
    }
    generator = np.random.default_rng(0)
    texts = ["separate the blocks", "schiebe den grünen Würfel", ""]
    episode = {
        "steps/observation/clip/pose": generator.normal(size=(3, 7)).astype(np.float32),
        "steps/observation/gripper": generator.normal(size=(3, 1)),
        "steps/observation/instruction": texts,
        "steps/action/future/xyz": generator.normal(size=(3, 3)).astype(np.float32),
    }
    parts = {
        "steps/observation/clip/pose": ("steps", "observation", "clip/pose"),
        "steps/action/future/xyz": ("steps", "action", "future/xyz"),
    }
    folder = write_small(tmp_path, features, episode, key_parts=parts)
    assert "future/xyz" in (folder / "features.json").read_text()
    index = index_of(folder, tmp_path / "cache")
    for key in features:
        if features[key].kind == "number":
            np.testing.assert_array_equal(index.column(key, "number"), episode[key])
    places = index.column("steps/observation/instruction", "text")
    assert [index.texts[place] for place in places] == texts


def test_a_number_that_is_no_code_point_makes_a_text_that_is_not_utf8(tmp_path):
    features = {"steps/observation/instruction": Feature("text", (512,), "int32")}
    folder = write_small(tmp_path, features, {"steps/observation/instruction": ["push"]})
    shard = next(folder.glob("*.tfrecord-*"))
    from data_pipelines.index.example import build_example
    from data_pipelines.index.tfrecord import write_records

    points = np.zeros(512, np.int64)
    points[:3] = [112, 1 << 30, 113]
    with shard.open("wb") as stream:
        write_records(stream, [build_example({"steps/observation/instruction": points})])
    assert index_of(folder, tmp_path / "cache").texts == ["p\udcffq"]


@pytest.mark.parametrize("encoding", ["zlib", "bytes"])
def test_packed_numbers_of_another_shape_are_refused(tmp_path, encoding):
    features = {"steps/state": Feature("number", (3,), "float32", encoding=encoding)}
    folder = write_small(tmp_path, features, {"steps/state": np.zeros((2, 3), np.float32)})
    tree = json.loads((folder / "features.json").read_text())
    tensor = tree["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]["state"]
    tensor["tensor"]["shape"]["dimensions"] = ["4"]
    (folder / "features.json").write_text(json.dumps(tree))
    with pytest.raises(InputError, match=r"'steps/state' has \d+ bytes, not a multiple of its shape \[4\]"):
        index_of(folder, tmp_path / "cache")


def test_png_cameras_are_exact(tmp_path, monkeypatch):
    def png(number, step, camera, size):
        picture = io.BytesIO()
        Image.fromarray(np.full((*size, 3), colour_of(number, step, camera), np.uint8)).save(picture, "PNG")
        return picture.getvalue()

    monkeypatch.setattr(rlds_episodes, "picture", png)
    write_bridge(tmp_path, size=(16, 16))
    batch = open_generated(tmp_path, needs=requirements(window=1)).batch(0)
    for (_, episode, step), picture in zip(batch.sample_ids, batch.observation.images["primary"][:, 0], strict=True):
        assert (picture == colour_of(episode, step, 0)).all()


def test_steps_without_an_instruction_are_not_sampled_where_asked_for(tmp_path, caplog):
    def half_silent(number, episode):
        texts = episode["steps/language_instruction"]
        texts[:] = [""] * len(texts) if number == 1 else ["", *texts[1:]]

    write_bridge(tmp_path, lengths=(5, 6, 4), edit=half_silent)
    for access in ("frame", "episode"):
        arguments = {"batch_size": 7, "needs": requirements(window=1), "access": access}
        every = open_generated(tmp_path, **arguments)
        labeled = open_generated(tmp_path, **arguments, skip_unlabeled=True)
        ids = labeled.batch(0).sample_ids  # targets are next poses: no target at a last step
        assert {tuple(row) for row in ids[:, 1:].tolist()} <= {(e, s) for e in (0, 2) for s in range(1, 5)}
        assert len(labeled.sources[0].anchors) == (5 - 2) + (4 - 2) < len(every.sources[0].anchors)
        assert labeled.batch(0).observation.instruction_mask.any(axis=1).all()
    assert "dataset bridge_dataset: 8 of 15 steps have no instruction: not sampled" in caplog.text


def test_a_dataset_without_any_instruction_is_refused_where_they_are_asked_for(tmp_path):
    def silent(_, episode):
        episode["steps/language_instruction"] = [""] * len(episode["steps/is_first"])

    write_bridge(tmp_path, edit=silent)
    with pytest.raises(InputError, match=r"no step with an instruction, and data.skip_unlabeled is set"):
        open_generated(tmp_path, skip_unlabeled=True)
