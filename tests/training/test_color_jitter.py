"""Colour augmentation against torchvision's documented formulas, written out here, and against wrong twins of them."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vla_jax.training import augmentation
from vla_jax.training.augmentation import ColorJitterConfig, augment, jitter
from vla_jax.types import Batch, InputError, Observation

OFF = ColorJitterConfig(shift=0.0, contrast=(1.0, 1.0), saturation=(1.0, 1.0), hue=0.0)
BATCH, WINDOW, SIZE = 3, 2, 6
PERCENT = 0.01
PICTURES = np.concatenate(
    [
        np.random.default_rng(0).integers(0, 256, (4, 12, 12, 3), dtype=np.uint8),
        np.broadcast_to(np.array([[200, 40, 90]], np.uint8), (1, 12, 12, 3)),  # far from grey: means differ
        np.broadcast_to(np.arange(12, dtype=np.uint8)[:, None, None] * 20, (1, 12, 12, 3)),  # grey: no hue
    ]
)


def make_batch(images, mask=None, index=None, **more):
    size, window = next(iter(images.values())).shape[:2]
    mask = np.ones((size, window), bool) if mask is None else mask
    observation = Observation(
        images=images,
        image_masks=dict.fromkeys(images, mask),
        proprio=np.zeros((size, window, 1), np.float32),
        timestep_mask=mask,
        instruction_tokens=np.zeros((size, 1), np.int32),
        instruction_mask=np.ones((size, 1), bool),
        **more,
    )
    nothing = np.zeros((size, window, 1, 1), np.float32)
    ids, index = np.zeros((size, 3), np.int32), np.arange(size) if index is None else index
    return Batch(observation, nothing, nothing > 0, ids, sample_index=np.asarray(index, np.uint32))


@pytest.fixture(scope="module")
def batch():
    random = np.random.default_rng(0)
    mask = np.ones((BATCH, WINDOW), bool)
    mask[1, 1] = False
    shape = (BATCH, WINDOW, SIZE, SIZE, 3)
    images = {slot: random.integers(40, 200, shape, dtype=np.uint8) for slot in ("primary", "wrist")}
    for pictures in images.values():
        pictures[1, 1] = 0
    return make_batch(images, mask)


def seen(config, batch, *, seed=0, sources=None):
    return jax.jit(lambda b: augment(config, b, seed=seed, sources=sources))(batch).observation


def jittered(config, batch, *, seed=0, slot="primary", sources=None):
    return np.asarray(seen(config, batch, seed=seed, sources=sources).images[slot])


# ---- torchvision's definitions (transforms.functional, float pictures 0..1)


def blend(x, other, factor):
    return np.clip(factor * x + (1 - factor) * other, 0, 1)


def grey(x):
    return (x @ np.array([0.2989, 0.587, 0.114]))[..., None]


def adjust_brightness(x, factor):
    return blend(x, 0, factor)


def adjust_contrast(x, factor):
    return blend(x, grey(x).mean(axis=(-3, -2), keepdims=True), factor)


def adjust_saturation(x, factor):
    return blend(x, grey(x), factor)


def adjust_hue(x, turn):
    """HSV and back, as matplotlib, an independent hand, does it."""
    from matplotlib.colors import hsv_to_rgb, rgb_to_hsv

    hsv = rgb_to_hsv(x)
    hsv[..., 0] = (hsv[..., 0] + turn) % 1
    return hsv_to_rgb(hsv)


def contrast_of_each_channel(x, factor):
    """TensorFlow's: a wrong twin of torchvision's."""
    return blend(x, x.mean(axis=(-3, -2), keepdims=True), factor)


def saturation_about_the_plain_mean(x, factor):
    return blend(x, x.mean(-1, keepdims=True), factor)


def hue_in_yiq(x, turn):
    from_rgb = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    yiq = x @ from_rgb.T
    chroma = (yiq[..., 1] + 1j * yiq[..., 2]) * np.exp(2j * np.pi * turn)
    turned = np.stack([yiq[..., 0], chroma.real, chroma.imag], axis=-1)
    return np.clip(turned @ np.linalg.inv(from_rgb).T, 0, 1)


def error(config, reference, pictures=PICTURES, key=0):
    ours = np.asarray(jax.jit(lambda x: jitter(config, x, jax.random.key(key)))(pictures)) / 255
    return np.abs(ours - reference(pictures / 255)).max()


@pytest.mark.parametrize("factor", [0.1, 0.6, 0.9, 1.3, 2.5])
@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("brightness", adjust_brightness, lambda x, f: np.clip(x + f - 1, 0, 1)),
        ("contrast", adjust_contrast, contrast_of_each_channel),
        ("saturation", adjust_saturation, saturation_about_the_plain_mean),
    ],
)
def test_each_factor_is_torchvisions_within_a_percent(name, right, wrong, factor):
    config = dataclasses.replace(OFF, **{name: (factor, factor)})
    assert error(config, lambda x: right(x, factor)) < PERCENT
    assert error(config, lambda x: wrong(x, factor)) > 2 * PERCENT


@pytest.mark.parametrize("key", [1, 2])
def test_the_hue_turns_in_hsv_within_a_percent(key):
    config = dataclasses.replace(OFF, hue=0.5)
    turns = np.linspace(-0.5, 0.5, 401)
    errors = [error_of(config, adjust_hue, turn, key) for turn in turns]
    best = turns[int(np.argmin(errors))]
    assert min(errors) < PERCENT
    assert abs(best) > 0.02, "a turn of nothing tells nothing; take another key"
    assert min(error_of(config, hue_in_yiq, turn, key) for turn in turns[::10]) > 5 * PERCENT


_DRAWN: dict = {}


def error_of(config, reference, factor, key):
    if key not in _DRAWN:
        _DRAWN[key] = np.asarray(jax.jit(lambda x: jitter(config, x, jax.random.key(key)))(PICTURES[:, :4, :4])) / 255
    return np.abs(_DRAWN[key] - reference(PICTURES[:, :4, :4] / 255, factor)).max()


def test_the_operations_come_in_order_and_clip_after_each():
    config = dataclasses.replace(OFF, brightness=(1.4, 1.4), contrast=(1.5, 1.5), saturation=(0.5, 0.5))

    def chain(x):
        return adjust_saturation(adjust_contrast(adjust_brightness(x, 1.4), 1.5), 0.5)

    def unclipped(x):
        x = x * 1.4
        mean = grey(x).mean(axis=(-3, -2), keepdims=True)
        x = mean + 1.5 * (x - mean)
        return np.clip(grey(x) + 0.5 * (x - grey(x)), 0, 1)

    assert error(config, chain) < PERCENT
    assert error(config, unclipped) > 5 * PERCENT


def test_the_shift_is_one_number_for_all_pixels_within_its_range():
    pictures = np.full((64, 1, 2, 2, 3), 128, np.uint8)
    shifts = jittered(dataclasses.replace(OFF, shift=0.2), make_batch({"primary": pictures})).astype(float) - 128
    assert np.ptp(shifts, axis=(1, 2, 3, 4)).max() == 0
    shifts = shifts[:, 0, 0, 0, 0] / 255
    assert shifts.min() < -0.15
    assert shifts.max() > 0.15
    assert np.abs(shifts).max() <= 0.2 + 1 / 255


def test_a_large_picture_does_not_overflow():
    white = np.full((1, 1024, 1024, 3), 250, np.uint8)
    assert error(dataclasses.replace(OFF, contrast=(0.0, 0.0)), lambda x: x, white) < PERCENT


# ---- integers


@pytest.mark.parametrize("divisor", [1, 2, 3, 7, 1021, 4095, 4096, 4097, 9973, 16319, 16320])
def test_the_quotient_is_that_of_integers_for_every_difference_of_two_channels(divisor):
    x = np.arange(-divisor, divisor + 1, dtype=np.int32) * 4096
    found = jax.jit(augmentation._quotient)(x, jnp.int32(divisor))
    np.testing.assert_array_equal(found, x // divisor)


@pytest.mark.parametrize("wrong", [1 - 1e-6, 1 + 1e-6, 1 + 1e-4])
def test_the_quotient_does_not_depend_on_how_exactly_floats_divide(wrong, monkeypatch):
    x = np.arange(-9973, 9974, dtype=np.int32) * 4096
    floor = jnp.floor
    monkeypatch.setattr(augmentation.jnp, "floor", lambda quotient: floor(quotient * wrong))
    np.testing.assert_array_equal(augmentation._quotient(x, jnp.int32(9973)), x // 9973)


def test_a_hue_comes_back_to_the_circle():
    turn = 6 * 4096
    hues = np.arange(-turn, 3 * turn, dtype=np.int32)
    np.testing.assert_array_equal(augmentation._on_circle(hues), hues % turn)


def test_no_integer_is_divided_pixel_by_pixel():
    """A TPU has no instruction for it."""
    program = str(jax.make_jaxpr(lambda x, key: jitter(ColorJitterConfig(), x, key))(PICTURES, jax.random.key(0)))
    divided = re.findall(r":[iu]32\[([\d,]+)\] = (?:div|rem) ", program)
    assert divided, "means are divided, a number a row"
    assert max(math.prod(map(int, shape.split(","))) for shape in divided) <= len(PICTURES) * 12


# ---- draws: their keys, what shares them, what is left alone


def test_nothing_drawn_changes_nothing(batch):
    np.testing.assert_array_equal(jittered(OFF, batch), batch.observation.images["primary"])


def test_a_picture_is_the_same_bit_for_bit_however_the_batch_is_split(batch):
    config = ColorJitterConfig(dropout=0.5, slots=("primary", "wrist"))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:BATCH]), "b")
    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("b"))
    whole = seen(config, batch)
    split = seen(config, jax.device_put(batch, where))
    jax.tree.map(np.testing.assert_array_equal, split, whole)
    last = seen(config, jax.tree.map(lambda leaf: leaf[-1:], batch))
    jax.tree.map(lambda all_rows, row: np.testing.assert_array_equal(row, all_rows[-1:]), whole, last)


def test_keys_come_from_the_seed_and_the_global_sample_index_alone(batch):
    config = ColorJitterConfig()
    turned = jax.tree.map(lambda leaf: leaf[::-1], batch)
    np.testing.assert_array_equal(jittered(config, turned)[::-1], jittered(config, batch))
    elsewhere = dataclasses.replace(batch, sample_index=batch.sample_index + np.uint32(7))
    assert (jittered(config, elsewhere) != jittered(config, batch)).any()
    assert (jittered(config, batch, seed=4) != jittered(config, batch, seed=5)).any()


def test_frames_of_a_window_share_a_draw_and_samples_do_not():
    pictures = np.broadcast_to(PICTURES[0], (3, 2, 12, 12, 3))
    ours = jittered(ColorJitterConfig(), make_batch({"primary": pictures}))
    np.testing.assert_array_equal(ours[:, 0], ours[:, 1])
    assert (ours[0] != ours[1]).any()


def test_padding_and_other_cameras_stay_as_they_are(batch):
    ours = jittered(ColorJitterConfig(), batch)
    assert (ours[1, 1] == 0).all()
    assert (ours[1, 0] != batch.observation.images["primary"][1, 0]).any()
    np.testing.assert_array_equal(jittered(ColorJitterConfig(), batch, slot="wrist"), batch.observation.images["wrist"])


def test_cameras_are_drawn_apart_but_a_second_picture_of_one_is_coloured_like_it():
    pictures = np.broadcast_to(PICTURES[0], (3, 2, 12, 12, 3))
    same = make_batch(dict.fromkeys(("primary", "primary_high", "wrist"), pictures))
    config, sources = ColorJitterConfig(slots=("primary", "wrist")), {"primary_high": "primary"}
    ours = seen(config, same, sources=sources).images
    np.testing.assert_array_equal(ours["primary"], ours["primary_high"])
    assert (ours["primary"] != ours["wrist"]).any()


def test_goals_and_later_pictures_are_coloured_like_their_camera():
    pictures = np.broadcast_to(PICTURES[0], (3, 2, 12, 12, 3))
    goal_mask = np.array([True, True, False])
    goals = {"goal_images": {"primary": pictures[:, 0]}, "goal_masks": {"primary": goal_mask}}
    both = dataclasses.replace(
        make_batch({"primary": pictures}, **goals),
        later_images={"primary": pictures},
        later_masks={"primary": np.ones((3, 2), bool)},
    )
    ours = jax.jit(lambda b: augment(ColorJitterConfig(), b, seed=0))(both)
    primary = np.asarray(ours.observation.images["primary"])
    np.testing.assert_array_equal(ours.observation.goal_images["primary"][:2], primary[:2, 0])
    np.testing.assert_array_equal(ours.observation.goal_images["primary"][2], PICTURES[0])
    np.testing.assert_array_equal(ours.later_images["primary"], primary)


def cameras(size=400):
    images = dict.fromkeys(("high", "primary", "wrist"), np.full((size, 1, 2, 2, 3), 9, np.uint8))
    return make_batch(images)


@pytest.mark.parametrize("kept", [None, "wrist"])
def test_dropout_blackens_masks_and_never_takes_the_last_camera(kept):
    config = dataclasses.replace(OFF, dropout=0.4, kept_slot=kept)
    ours = seen(config, cameras(), sources={"high": "primary"})
    masks = {slot: np.asarray(mask)[:, 0] for slot, mask in ours.image_masks.items()}
    np.testing.assert_array_equal(masks["high"], masks["primary"])
    assert (masks["primary"] | masks["wrist"]).all()
    for slot, mask in masks.items():
        assert (np.asarray(ours.images[slot])[:, 0, 0, 0, 0] == 9 * mask).all()
    expected = 0.4 if kept else 0.2  # of two cameras the drawn half is safe
    assert (~masks["primary"]).mean() == pytest.approx(expected, abs=3 * (0.25 / 400) ** 0.5)
    assert masks["wrist"].all() == (kept == "wrist")


def test_dropout_keeps_the_only_camera_that_a_dataset_has():
    full = cameras()
    masks = dict(full.observation.image_masks) | {"wrist": np.zeros((400, 1), bool)}
    absent = dataclasses.replace(full, observation=dataclasses.replace(full.observation, image_masks=masks))
    ours = seen(dataclasses.replace(OFF, dropout=1.0, kept_slot="wrist"), absent, sources={"high": "primary"})
    assert np.asarray(ours.image_masks["primary"]).all()
    assert not np.asarray(ours.image_masks["wrist"]).any()


@pytest.mark.parametrize("wrong", [{"hue": 0.7}, {"contrast": (1.2, 0.8)}, {"dropout": 2.0}, {"shift": -0.1}])
def test_ranges_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError, match="augmentation"):
        ColorJitterConfig(**wrong)


def test_a_batch_without_sample_index_is_refused(batch):
    with pytest.raises(AssertionError, match="sample_index"):
        augment(OFF, dataclasses.replace(batch, sample_index=None), seed=0)
