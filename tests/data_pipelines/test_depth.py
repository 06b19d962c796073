"""Depth for policies: exact metres, masks, cut as the colour pictures are, damaged pictures, how it is shown."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image
from pipeline_setup import BOTH, open_generated, requirements

from data_pipelines.config import CropConfig, DataConfig, RotationConfig
from data_pipelines.datasets import bridge_dataset
from data_pipelines.index.dataset_directory import Feature
from data_pipelines.report.depth import coloured, range_of
from data_pipelines.report.filmstrip import FilmMaker
from data_pipelines.report.sample import shown_samples
from data_pipelines.report.sheet import draw_sheet
from data_pipelines.spec import Depth
from data_pipelines.transforms.depth import ToMetres
from data_pipelines.transforms.geometry import Geometry
from data_pipelines.transforms.resize import Resize
from data_pipelines.variation import Variation
from tests import rlds_episodes
from tests.rlds_episodes import write_bridge, write_fractal
from vla_jax.types import DepthRequirement, InputError

SIZE, LENGTHS = (48, 60), (6, 4)
FEATURES = {
    "steps/observation/depth_0": Feature("image", (*SIZE, 1), "uint16"),
    "steps/observation/depth_1": Feature("array", SIZE, "float32"),
    "steps/observation/depth_2": Feature("image", (*SIZE, 1), "uint16"),
}
DEPTHS = {
    "primary": Depth(key="observation/depth_0", metres=0.001),
    "secondary": Depth(key="observation/depth_1", metres=0.5),
    "tertiary": Depth(key="observation/depth_2", metres=None),
}
Y, X = np.mgrid[: SIZE[0], : SIZE[1]]
COLOUR = np.stack([4 * X + 8, 5 * Y + 8, np.full(SIZE, 200)], axis=-1).astype(np.uint8)
"""Tells the place of each pixel; so does the depth picture of `primary`."""
INVALID = (np.nan, np.inf, -np.inf, 0.0, -1.0)


def millimetres(episode, step):
    return (1000 * (episode + 1) + 10_000 * step + X + 64 * Y).astype(np.uint16)


def halves(episode, step):
    values = np.random.default_rng((episode, step)).uniform(0.1, 9, SIZE).astype(np.float32)
    values[0, : len(INVALID)] = INVALID
    return values


def png(numbers):
    stream = io.BytesIO()
    Image.fromarray(numbers).save(stream, "PNG")
    return stream.getvalue()


def with_depth(number, episode):
    steps = range(len(episode["steps/is_first"]))
    episode["steps/observation/image_0"] = [png(COLOUR)] * len(steps)
    for key, depth in (("depth_0", millimetres), ("depth_2", millimetres)):
        episode[f"steps/observation/{key}"] = [png(depth(number, step)) for step in steps]
    episode["steps/observation/depth_1"] = [halves(number, step) for step in steps]


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setattr(rlds_episodes, "BRIDGE", rlds_episodes.BRIDGE | FEATURES)
    monkeypatch.setattr(bridge_dataset, "SPEC", dataclasses.replace(bridge_dataset.SPEC, depths=DEPTHS))

    def write(edit=lambda number, episode: None):
        def both(number, episode):
            with_depth(number, episode)
            edit(number, episode)

        write_bridge(tmp_path, lengths=LENGTHS, size=SIZE, shards=1, edit=both)
        return tmp_path

    return write


def needs(*slots, size=SIZE, **changes):
    depths = tuple(DepthRequirement(slot=slot, height=size[0], width=size[1]) for slot in slots)
    return dataclasses.replace(requirements(window=3, size=size, **changes), depths=depths)


def rows_of(batch):
    """Place in the batch, episode and the steps of the window that are no padding."""
    for place, (_, episode, step) in enumerate(batch.sample_ids.tolist()):
        yield place, episode, [(w, step + w) for w in np.flatnonzero(batch.observation.timestep_mask[place])]


@pytest.mark.parametrize("access", ["frame", "episode"])
def test_depth_of_pictures_and_tensors_is_exact_in_metres(write, access):
    batch = open_generated(write(), needs=needs("primary", "secondary"), access=access).batch(0)
    depths = batch.observation.depths
    assert {slot: (x.dtype, x.shape) for slot, x in depths.items()} == dict.fromkeys(
        ("primary", "secondary"), (np.float32, (4, 3, *SIZE))
    )
    for place, episode, steps in rows_of(batch):
        for w, step in steps:
            expected = (millimetres(episode, step) * 0.001).astype(np.float32)
            np.testing.assert_array_equal(depths["primary"][place, w], expected)
            expected = halves(episode, step) * np.float32(0.5)
            expected[0, : len(INVALID)] = 0
            np.testing.assert_array_equal(depths["secondary"][place, w], expected)


def test_what_was_not_measured_is_zero():
    stored = np.array([[*INVALID, 2.0, 3e38]], np.float32)
    assert ToMetres(10.0)(stored).tolist() == [[0, 0, 0, 0, 0, 20, 0]]
    assert ToMetres(2**-10)(np.array([[0, 512, 65535]], np.uint16)).tolist() == [[0, 0.5, 65535 / 1024]]


def test_depth_is_masked_where_it_is_missing_padded_or_of_no_known_unit(write, caplog):
    root = write()
    write_fractal(root)
    wanted = needs("primary", "tertiary", "wrist", anchor="last")
    batch = open_generated(root, mixture=BOTH, needs=wanted, batch_size=32).batch(0)
    seen, is_bridge = batch.observation, batch.sample_ids[:, 0] == 0
    assert 0 < is_bridge.sum() < 32
    masks = seen.depth_masks
    np.testing.assert_array_equal(masks["primary"], seen.timestep_mask & is_bridge[:, None])
    assert not masks["primary"][is_bridge].all()
    assert not masks["tertiary"].any()
    assert not masks["wrist"].any()
    for slot, mask in masks.items():
        np.testing.assert_array_equal(seen.depths[slot].any((2, 3)), mask)
    for line in (
        "dataset bridge_dataset: depth of the camera 'tertiary' is masked: its unit is not published",
        "dataset bridge_dataset: depth of the camera 'wrist' is masked: there is none, only ['primary'",
        "dataset fractal20220817_data: depth of the camera 'primary' is masked: there is none, only []",
    ):
        assert caplog.text.count(line) == 1


def test_depth_is_cut_turned_and_mirrored_as_its_colour_picture_and_never_interpolated(write):
    pipeline = open_generated(
        write(),
        needs=needs("primary", size=(40, 40)),
        batch_size=16,
        crop=CropConfig(scale=(0.4, 0.9)),
        rotation=RotationConfig(degrees=15),
        mirror_share=0.5,
    )
    batch = pipeline.batch(0)
    images, depths = batch.observation.images["primary"], batch.observation.depths["primary"]
    samples, _ = pipeline.read(0)
    assert {sample.geometries["primary"].mirrored for sample in samples} == {True, False}
    assert np.ptp([sample.geometries["primary"].degrees for sample in samples]) > 5
    for place, episode, steps in rows_of(batch):
        for w, step in steps:
            colour, depth = images[place, w].astype(float), depths[place, w]
            stored = (millimetres(episode, step) * 0.001).astype(np.float32)
            assert np.isin(depth, np.append(stored, np.float32(0))).all()
            inside = (depth > 0) & (colour[..., 2] > 199)  # a turned colour picture fades at its corners
            assert inside.mean() > 0.7
            number = np.rint(depth[inside] * 1000).astype(int) - int(millimetres(episode, step)[0, 0])
            np.testing.assert_allclose(number % 64, (colour[inside][:, 0] - 8) / 4, atol=1.6)
            np.testing.assert_allclose(number // 64, (colour[inside][:, 1] - 8) / 5, atol=1.6)


def test_a_smaller_depth_picture_takes_the_pixel_at_the_middle_of_each_cell():
    stored = np.arange(6 * 9, dtype=np.float32).reshape(6, 9)
    np.testing.assert_array_equal(Resize(2, 3, "nearest")(stored), stored[1::3, 1::3])
    half = Geometry((1 / 3, 0.5, 1.0, 1.0), mirrored=True)
    np.testing.assert_array_equal(Resize(1, 2, "nearest")(stored, half), stored[4:5, [7, 4]])


def test_depth_without_a_colour_picture_is_mirrored_too():
    data = DataConfig(root="", crop=None, mirror_share=1.0)
    geometries = Variation(data, needs("wrist")).geometries(lambda: np.random.default_rng(0))
    assert geometries.keys() == {"primary", "wrist"}
    assert geometries["wrist"].mirrored


def test_a_damaged_depth_picture_is_a_bad_record(write, tmp_path):
    def damage(number, episode):
        if number == 0:
            pictures = episode["steps/observation/depth_0"]
            pictures[2] = pictures[2][:-100]

    root, quarantine = write(damage), tmp_path / "quarantine.jsonl"
    pipeline = open_generated(root, needs=needs("primary"), quarantine=quarantine, max_bad_share=1.0)
    batches = [pipeline.batch(step) for step in range(8)]
    (line,) = map(json.loads, quarantine.read_text().splitlines())
    assert (line["episode"], line["step"]) == (0, 2)
    assert line["reason"].startswith("camera primary: depth: an undecodable picture")
    for batch in batches:
        for _, episode, steps in rows_of(batch):
            assert episode != 0 or 2 not in [step for _, step in steps]
        assert (batch.observation.depths["primary"].any((2, 3)) == batch.observation.depth_masks["primary"]).all()
    ids = [pipeline.sample_ids(step) for step in range(8)]
    np.testing.assert_array_equal(ids, [batch.sample_ids for batch in batches])
    plain = open_generated(root, needs=needs(), max_bad_share=0.0)
    assert [plain.batch(step).observation.depths for step in range(8)] == [None] * 8


def test_depth_is_drawn_in_colours_with_its_range(write, tmp_path):
    pipeline = open_generated(write(), needs=needs("primary", "tertiary", size=(24, 24)))
    for sample in shown_samples(pipeline, 0, 4):
        pictures = sample.pictures["primary depth"]
        steps = [sample.step + w for w in np.flatnonzero(pictures.mask)]
        stored = [millimetres(sample.episode, step) * 0.001 for step in steps]
        assert pictures.range_metres == pytest.approx((np.min(stored), np.max(stored)))
        assert sample.tree()["depth_metres"] == {"primary depth": list(pictures.range_metres)}
        assert pictures.as_read[0].shape == (*SIZE, 3)
        np.testing.assert_array_equal(pictures.seen.any((1, 2, 3)), pictures.mask)
        assert sample.pictures["tertiary depth"].as_read == [None] * 3
    draw_sheet(tmp_path / "sheet.png", sample, pipeline.assembler.requirements)
    assert Image.open(tmp_path / "sheet.png").width == 1500


def test_colours_span_what_was_measured():
    depth = np.array([[0.0, np.nan], [1.0, 3.0]])
    assert range_of([depth, np.zeros((1, 1))]) == (1.0, 3.0)
    assert range_of([np.zeros((2, 2))]) == (0.0, 0.0)
    picture = coloured(depth, 1.0, 3.0)
    assert not picture[0].any()
    assert picture[1].any(-1).all()
    assert (picture[1, 0] != picture[1, 1]).any()


def test_films_have_a_strip_of_each_depth_camera(write):
    source = open_generated(write()).sources[0]
    film = FilmMaker(source.index, (), [], None, DEPTHS).films(1 << 20)[0]
    numbers = [millimetres(film.number, step) for step in film.steps]
    low, high = np.min(numbers), np.max(numbers)
    names = [strip.camera for strip in film.strips]
    assert names[0] == f"primary depth, {low * 0.001:.3g} to {high * 0.001:.3g} m"
    assert names[2] == f"tertiary depth, {low:.3g} to {high:.3g} as stored"
    for strip in film.strips:
        assert all(picture.startswith("data:image/jpeg;base64,") for picture in strip.pictures)


def test_a_slot_is_asked_for_once():
    with pytest.raises(InputError, match=r"depths of \['primary', 'primary'\]: each slot once expected"):
        needs("primary", "primary")
