"""Cutting, turning and mirroring: boxes go where the pixels go, and a second picture shows the same part."""

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from data_pipelines.transforms.boxes import GridBoxes, MoveBoxes
from data_pipelines.transforms.decode import Decode, largest
from data_pipelines.transforms.geometry import UNCHANGED, Geometry
from data_pipelines.transforms.resize import Resize
from data_pipelines.transforms.rotation import RandomRotation

GEOMETRIES = {
    "unchanged": UNCHANGED,
    "cut": Geometry((0.1, 0.2, 0.9, 0.8)),
    "turned": Geometry(degrees=20),
    "turned the other way": Geometry(degrees=-20),
    "mirrored": Geometry(mirrored=True),
    "all": Geometry((0.05, 0.1, 0.95, 0.85), degrees=12, mirrored=True),
}
SIZE = (60, 100)
"""Of the picture that is seen: not square, as a turn must know."""


def marked(box, size=(240, 200)):
    """A black picture with a white rectangle."""
    picture = np.zeros((*size, 3), np.uint8)
    left, upper, right, lower = np.round(np.array(box) * [size[1], size[0], size[1], size[0]]).astype(int)
    picture[upper:lower, left:right] = 255
    return picture


def hull(picture):
    """The upright hull of what is white, in shares."""
    y, x = np.nonzero(picture[..., 0] > 127)
    height, width = picture.shape[:2]
    return np.array([x.min() / width, y.min() / height, (x.max() + 1) / width, (y.max() + 1) / height])


@pytest.mark.parametrize("name", GEOMETRIES)
def test_boxes_go_where_the_pixels_go(name):
    geometry, box = GEOMETRIES[name], np.array([0.3, 0.5, 0.45, 0.7])
    seen = Resize(*SIZE)(marked(box), geometry)
    moved = geometry.boxes(box[None], *SIZE)[0]
    np.testing.assert_allclose(moved, hull(seen), atol=0.02)
    if name != "unchanged":
        assert np.abs(moved - box).max() > 0.03


def test_a_turn_the_wrong_way_would_be_seen():
    box = np.array([0.7, 0.45, 0.9, 0.55])
    seen = hull(Resize(*SIZE)(marked(box), Geometry(degrees=20)))
    assert np.abs(Geometry(degrees=-20).boxes(box[None], *SIZE)[0] - seen).max() > 0.1


def test_boxes_are_clipped_and_those_cut_away_are_masked():
    boxes = np.array([[[0.2, 0.2, 0.4, 0.4], [0.0, 0.0, 0.12, 0.5], [0.9, 0.9, 1.0, 1.0], [0.4, 0.4, 0.6, 0.6]]])
    mask = np.array([[True, True, True, False]])
    moved, kept = MoveBoxes(100, 100, smallest_side=1 / 14)(boxes, mask, Geometry((0.1, 0.1, 0.6, 0.6)))
    assert kept.tolist() == [[True, False, False, False]]  # a sliver, outside, not given
    np.testing.assert_allclose(moved[0], [[0.2, 0.2, 0.6, 0.6], *[[0, 0, 0, 0]] * 3], atol=1e-6)


def test_the_whole_picture_keeps_its_boxes():
    boxes = GridBoxes(16)()[None]
    moved, kept = MoveBoxes(7, 9, 1 / 14)(boxes, np.ones((1, 16), bool), UNCHANGED)
    np.testing.assert_allclose(moved, boxes, atol=1e-6)
    assert kept.all()


@pytest.mark.parametrize("count", [1, 5, 16])
def test_a_grid_of_boxes_covers_what_it_can(count):
    boxes = GridBoxes(count)()
    assert boxes.shape == (count, 4)
    assert len(np.unique(boxes, axis=0)) == count
    assert 0 <= boxes.min() < boxes.max() <= 1


def test_a_turned_picture_has_black_corners_and_keeps_its_middle():
    white = np.full((40, 40, 3), 255, np.uint8)
    seen = Resize(40, 40)(white, Geometry(degrees=15))
    assert (seen[0, 0] == 0).all()
    assert (seen[20, 20] == 255).all()


def test_turns_fill_their_range():
    generator = np.random.default_rng(0)
    turns = np.array([RandomRotation(5)(generator) for _ in range(500)])
    assert -5 <= turns.min() < -4.8
    assert 4.8 < turns.max() <= 5


# ---- cheaper filters


SMOOTH = np.asarray(
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((160, 120))
)
JPEG = simplejpeg.encode_jpeg(SMOOTH, quality=95, colorspace="RGB")
NOTHING = np.zeros((0,), np.uint8)


@pytest.mark.parametrize("name", ["bilinear", "fast"])
@pytest.mark.parametrize("geometry", [UNCHANGED, Geometry((0.1, 0.2, 0.9, 0.8))])
def test_cheaper_filters_show_the_same_picture_within_two_levels(name, geometry):
    resize = Resize(56, 72, name)
    ours = resize(Decode(resize.smallest(geometry))(JPEG, NOTHING), geometry).astype(int)
    bicubic = Resize(56, 72)(Decode()(JPEG, NOTHING), geometry).astype(int)
    assert np.abs(ours - bicubic).mean() < 2
    shifted = np.roll(bicubic, 1, axis=1)
    assert np.abs(shifted - bicubic).mean() > 2, "the picture is too smooth to tell"


def test_bilinear_is_torchs_with_antialiasing():
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(SMOOTH.copy()).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(tensor, size=(56, 72), mode="bilinear", antialias=True)
    expected = expected[0].permute(1, 2, 0).round().clamp(0, 255).numpy()
    assert np.abs(Resize(56, 72, "bilinear")(SMOOTH) - expected).max() <= 1
    assert np.abs(Resize(56, 72)(SMOOTH) - expected).max() > 1


def test_fast_decodes_no_more_than_a_crop_needs_and_never_enlarges():
    resize = Resize(56, 72, "fast")
    assert Decode(resize.smallest(UNCHANGED))(JPEG, NOTHING).shape == (60, 80, 3)
    assert Decode(resize.smallest(Geometry((0.0, 0.0, 0.5, 0.5))))(JPEG, NOTHING).shape[0] >= 112
    assert Decode(Resize(300, 300, "fast").smallest(UNCHANGED))(JPEG, NOTHING).shape == (120, 160, 3)
    assert Resize(56, 72).smallest(UNCHANGED) is None


def test_pictures_of_two_sizes_are_decoded_large_enough_for_both():
    assert largest([(10, 30), (20, 20)]) == (20, 30)
    assert largest([(10, 30), None]) is None
