"""Decode, resize and crop, against Pillow used plainly."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from data_pipelines.transforms.crop import RandomCrop
from data_pipelines.transforms.decode import Decode
from data_pipelines.transforms.geometry import WHOLE, Geometry
from data_pipelines.transforms.resize import Resize

PICTURE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
NOTHING = np.zeros((0,), np.uint8)


def png(picture, mode="RGB"):
    stream = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(stream, "PNG")
    return stream.getvalue()


def test_png_is_exact():
    np.testing.assert_array_equal(Decode()(png(PICTURE), NOTHING), PICTURE)
    assert Decode()(png(PICTURE, "RGBA"), NOTHING).shape == (20, 30, 3)


def test_jpeg_keeps_red_red_and_is_written_in_place_where_the_size_fits():
    red = np.zeros((16, 24, 3), np.uint8)
    red[..., 0] = 255
    data = simplejpeg.encode_jpeg(red, quality=95, colorspace="RGB")
    out = np.zeros((16, 24, 3), np.uint8)
    decoded = Decode()(data, out)
    assert np.shares_memory(decoded, out)
    assert out[..., 0].min() > 245
    assert out[..., 1:].max() < 10
    assert not np.shares_memory(Decode()(data, np.zeros((8, 8, 3), np.uint8)), out)


def test_grey_jpeg_becomes_three_channels():
    data = simplejpeg.encode_jpeg(PICTURE[..., :1].copy(), colorspace="GRAY")
    decoded = Decode()(data, NOTHING)
    assert decoded.shape == (20, 30, 3)
    np.testing.assert_array_equal(decoded[..., 0], decoded[..., 2])


def test_undecodable_bytes_are_value_errors():
    whole = simplejpeg.encode_jpeg(PICTURE, colorspace="RGB")
    for data in (b"", b"GIF89a", whole[:-60], whole[:20], png(PICTURE)[:-300], b"\xff\xd8" + bytes(100)):
        with pytest.raises(ValueError):
            Decode()(data, NOTHING)


def test_a_header_that_claims_a_giant_picture_is_refused():
    data = bytearray(simplejpeg.encode_jpeg(PICTURE, colorspace="RGB"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = b"\x7f\xff\x7f\xff"
    with pytest.raises(ValueError, match="32767 x 32767"):
        Decode()(bytes(data), NOTHING)


def test_resize_is_what_pillow_alone_gives():
    """An exported policy repeats this one line."""
    expected = np.asarray(Image.fromarray(PICTURE).resize((12, 8), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(Resize(8, 12)(PICTURE), expected)
    aliased = np.asarray(Image.fromarray(PICTURE).resize((12, 8), Image.Resampling.NEAREST))
    assert not np.array_equal(expected, aliased)


def test_resize_of_a_fitting_picture_does_nothing_and_equals_pillow():
    assert Resize(20, 30)(PICTURE) is PICTURE
    np.testing.assert_array_equal(Image.fromarray(PICTURE).resize((30, 20), Image.Resampling.BICUBIC), PICTURE)


def test_crop_and_resize_are_one_step():
    box = (0.1, 0.25, 0.9, 0.75)
    image = Image.fromarray(PICTURE).resize((30, 20), Image.Resampling.BICUBIC, box=(3, 5, 27, 15))
    np.testing.assert_array_equal(Resize(20, 30)(PICTURE, Geometry(box)), np.asarray(image))


def test_crops_stay_inside_and_keep_the_drawn_share_and_ratio():
    generator = np.random.default_rng(0)
    boxes = np.array([RandomCrop((0.5, 0.8), (0.9, 1.1))(generator) for _ in range(2000)])
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert 0.5 - 1e-9 <= (width * height).min() < 0.51
    assert 0.79 < (width * height).max() <= 0.8 + 1e-9
    assert 0.9 - 1e-9 <= (width / height).min() < 0.905
    assert 1.095 < (width / height).max() <= 1.1 + 1e-9


def test_a_crop_of_everything_is_the_whole_picture():
    assert RandomCrop((1.0, 1.0), (1.0, 1.0))(np.random.default_rng(0)) == WHOLE
