"""Colour augmentation against numpy and colorsys, written from the definitions of the four operations."""

import dataclasses

import jax
import numpy as np
import pytest

from vla_jax.training.augmentation import ColorJitterConfig, jitter
from vla_jax.types import Observation

OFF = ColorJitterConfig(brightness=0.0, contrast=(1.0, 1.0), saturation=(1.0, 1.0), hue=0.0)
BATCH, WINDOW, SIZE = 3, 2, 6


@pytest.fixture(scope="module")
def observation():
    random = np.random.default_rng(0)
    shape = (BATCH, WINDOW, SIZE, SIZE, 3)
    mask = np.ones((BATCH, WINDOW), bool)
    mask[1, 1] = False
    images = {slot: random.integers(40, 200, shape, dtype=np.uint8) for slot in ("primary", "wrist")}
    for pictures in images.values():
        pictures[1, 1] = 0
    return Observation(
        images=images,
        image_masks=dict.fromkeys(images, mask),
        proprio=np.zeros((BATCH, WINDOW, 1), np.float32),
        timestep_mask=mask,
        instruction_tokens=np.zeros((BATCH, 1), np.int32),
        instruction_mask=np.ones((BATCH, 1), bool),
    )


def jittered(config, observation, seed=0, slot="primary"):
    return np.asarray(jax.jit(lambda o, k: jitter(config, o, k))(observation, jax.random.key(seed)).images[slot])


def test_nothing_drawn_changes_nothing(observation):
    np.testing.assert_array_equal(jittered(OFF, observation), observation.images["primary"])


@pytest.mark.parametrize("seed", range(3))
def test_each_operation_matches_numpy_with_one_factor_a_sample(observation, seed):
    pictures = observation.images["primary"].astype(np.float64) / 255

    def check(config, operation, low, high):
        ours = jittered(config, observation, seed).astype(np.float64)
        factors = []
        for row in range(BATCH):
            error, factor = best_factor(pictures[row, :1], ours[row, :1], operation, low, high)
            assert error <= 1.01, f"no factor in [{low}, {high}] explains row {row}"
            again = np.clip(operation(pictures[row], factor), 0, 1) * 255
            if row != 1:  # its second frame is padding
                assert np.abs(again - ours[row]).max() <= 1.5, "frames of a window differ in their factor"
            factors.append(factor)
        assert len({round(factor, 3) for factor in factors}) == BATCH, "samples share a factor"

    check(dataclasses.replace(OFF, brightness=0.2), lambda x, f: x + f, -0.2, 0.2)
    check(dataclasses.replace(OFF, contrast=(0.8, 1.2)), contrast, 0.8, 1.2)
    check(dataclasses.replace(OFF, saturation=(0.8, 1.2)), saturation, 0.8, 1.2)
    check(dataclasses.replace(OFF, hue=0.1), hue, -0.1, 0.1)


def best_factor(before, after, operation, low, high):
    candidates = np.linspace(low, high, 2001)
    errors = [np.abs(np.clip(operation(before, factor), 0, 1) * 255 - after).max() for factor in candidates]
    return min(errors), float(candidates[int(np.argmin(errors))])


def contrast(x, factor):
    mean = x.mean(axis=(-3, -2), keepdims=True)
    return mean + factor * (x - mean)


def saturation(x, factor):
    """A blend with the grey picture of ITU-R BT.601 luma."""
    grey = (x @ np.array([0.299, 0.587, 0.114]))[..., None]
    return grey + factor * (x - grey)


def hue(x, turn):
    """Turns chroma by `turn` of a circle about the luma axis: in NTSC YIQ coordinates, as a rotation of I and Q."""
    from_rgb = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    yiq = x @ from_rgb.T
    chroma = (yiq[..., 1] + 1j * yiq[..., 2]) * np.exp(2j * np.pi * turn)
    turned = np.stack([yiq[..., 0], chroma.real, chroma.imag], axis=-1)
    return np.linalg.solve(from_rgb, turned[..., None])[..., 0]


def test_a_hue_turn_of_a_third_takes_red_towards_another_primary():
    red = np.zeros((1, 1, 1, 1, 3), np.uint8)
    red[..., 0], red[..., 1:] = 180, 60
    sample = Observation(
        images={"primary": red},
        image_masks={"primary": np.ones((1, 1), bool)},
        proprio=np.zeros((1, 1, 1), np.float32),
        timestep_mask=np.ones((1, 1), bool),
        instruction_tokens=np.zeros((1, 1), np.int32),
        instruction_mask=np.ones((1, 1), bool),
    )
    tops = {int(jittered(dataclasses.replace(OFF, hue=0.5), sample, seed)[0, 0, 0, 0].argmax()) for seed in range(12)}
    assert len(tops) >= 2


def test_a_picture_is_the_same_bit_for_bit_however_the_batch_is_split(observation):
    config = ColorJitterConfig()
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:BATCH]), "b")
    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("b"))
    np.testing.assert_array_equal(jittered(config, jax.device_put(observation, where)), jittered(config, observation))


def test_padding_and_other_cameras_stay_as_they_are(observation):
    config = ColorJitterConfig()
    ours = jittered(config, observation)
    assert (ours[1, 1] == 0).all()
    assert (ours[1, 0] != observation.images["primary"][1, 0]).any()
    np.testing.assert_array_equal(jittered(config, observation, slot="wrist"), observation.images["wrist"])


def test_cameras_are_drawn_apart_and_keys_decide(observation):
    same = dataclasses.replace(observation, images=dict.fromkeys(observation.images, observation.images["primary"]))
    config = ColorJitterConfig(slots=("primary", "wrist"))
    assert (jittered(config, same) != jittered(config, same, slot="wrist")).any()
    np.testing.assert_array_equal(jittered(config, same, seed=4), jittered(config, same, seed=4))
    assert (jittered(config, same, seed=4) != jittered(config, same, seed=5)).any()


def test_factors_fill_their_range():
    random = np.random.default_rng(1)
    pictures = np.full((64, 1, 2, 2, 3), 128, np.uint8)
    sample = Observation(
        images={"primary": pictures},
        image_masks={"primary": np.ones((64, 1), bool)},
        proprio=random.normal(size=(64, 1, 1)),
        timestep_mask=np.ones((64, 1), bool),
        instruction_tokens=np.zeros((64, 1), np.int32),
        instruction_mask=np.ones((64, 1), bool),
    )
    shifts = jittered(dataclasses.replace(OFF, brightness=0.2), sample)[:, 0, 0, 0, 0] / 255 - 128 / 255
    assert shifts.min() < -0.15
    assert shifts.max() > 0.15
    assert np.abs(shifts).max() <= 0.2 + 1 / 255
