"""Normalise and back, the dimensions that pass through, and those that are constant."""

import numpy as np
import pytest

from data_pipelines.normalization import normalizer
from vla_jax.types import Dimension, InputError

DIMENSIONS = tuple(
    Dimension(name=name, unit="metre", normalize=name != "gripper") for name in ("x", "still", "gripper")
)
STATISTICS = {
    "mean": [2.0, 1.5693, 0.4],
    "std": [0.5, 0.0, 0.3],
    "min": [0.0, 1.5693, 0.0],
    "max": [4.0, 1.5693, 1.0],
    "q01": [1.0, 1.5693, 0.0],
    "q99": [3.0, 1.5693, 1.0],
    "mask": [True, True, False],
}
X = np.array([[2.0, 1.5693, 0.4], [3.0, 1.5693, 1.0]], np.float32)


def build(mode):
    return normalizer(mode, STATISTICS, DIMENSIONS, "test")


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("none", X),
        ("gaussian", [[0, 0, 0.4], [2, 0, 1]]),
        ("bounds", [[0, 0, 0.4], [0.5, 0, 1]]),
        ("quantile", [[0, 0, 0.4], [1, 0, 1]]),
    ],
)
def test_each_mode_and_its_inverse(mode, expected):
    normalize = build(mode)
    np.testing.assert_allclose(normalize(X), expected, atol=1e-6)
    np.testing.assert_allclose(normalize.inverse(normalize(X)), X, atol=1e-6)


@pytest.mark.parametrize("mode", ["bounds", "quantile"])
def test_ranges_clip_what_they_normalise_and_nothing_else(mode):
    out = build(mode)(np.array([[9.0, 1.0, 7.0], [-9.0, 1.0, -7.0]], np.float32))
    np.testing.assert_allclose(out, [[1, 0, 7], [-1, 0, -7]])


@pytest.mark.parametrize("mode", ["gaussian", "bounds", "quantile"])
def test_other_values_in_a_constant_dimension_do_not_blow_up(mode):
    normalize = build(mode)
    strange = np.array([[2.0, 1.5703, 0.0], [2.0, 0.0, 0.0]], np.float32)
    assert np.abs(normalize(strange)).max() == 0
    np.testing.assert_allclose(normalize.inverse(normalize(strange))[:, 1], 1.5693, rtol=1e-6)


def test_rounding_noise_counts_as_constant():
    noisy = STATISTICS | {"std": [0.5, 3e-8, 0.3], "max": [4.0, 1.5693001, 1.0]}
    assert normalizer("gaussian", noisy, DIMENSIONS, "test")(np.array([[2, 1.57, 0]], np.float32))[0, 1] == 0


def test_statistics_of_another_width_are_refused():
    with pytest.raises(InputError, match="here: 3 dimensions, the action space has 2"):
        normalizer("gaussian", STATISTICS, DIMENSIONS[:2], "here")


def test_constant_dimensions_are_named_in_one_warning(caplog):
    still = {key: [value[1], *value[1:]] for key, value in STATISTICS.items()}
    for _ in range(3):
        normalizer("gaussian", still, DIMENSIONS, "robot: action")
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["robot: action: constant, so always 0 when normalised: x, still"]


def test_a_dimension_that_the_dataset_lacks_is_no_news(caplog):
    normalizer("gaussian", STATISTICS, DIMENSIONS, "lacking: action", np.array([True, False, True]))
    assert not caplog.records


@pytest.mark.parametrize(
    ("mode", "unit", "largest"),
    [
        ("gaussian", "1", 0.7),
        ("bounds", "1", 0.7),
        ("quantile", "radian", 0.7),
        ("gaussian", "metre", 2),
        ("none", "1", 1),
    ],
)
def test_servo_noise_is_not_blown_up_and_comes_back(mode, unit, largest):
    """A robot that never turns: deviations of 3e-5, which divided by themselves would weigh as much as any motion."""
    dimension = (Dimension(name="turn", unit=unit),)
    noise = 1 + np.random.default_rng(0).normal(size=(1000, 1)) * 3e-5
    low, high = np.quantile(noise, (0.01, 0.99))
    numbers = {
        "mean": noise.mean(),
        "std": noise.std(),
        "min": noise.min(),
        "max": noise.max(),
        "q01": low,
        "q99": high,
    }
    normalize = normalizer(mode, {k: [v] for k, v in numbers.items()} | {"mask": [True]}, dimension, "test")
    out = normalize(noise.astype(np.float32))
    assert np.abs(out - (1 if mode == "none" else 0)).max() < largest
    np.testing.assert_allclose(normalize.inverse(out), noise, atol=1e-6)


def test_real_motion_is_scaled_by_its_own_spread():
    """The floors lie below it: half a millimetre a step, a thirtieth of a degree."""
    for unit, spread in {"metre": 5e-4, "radian": 5e-4, "1": 5e-4, "unknown": 1e-5}.items():
        numbers = {"mean": 0, "std": spread, "min": -9 * spread, "max": 9 * spread, "q01": -spread, "q99": spread}
        statistics = {k: [v] for k, v in numbers.items()} | {"mask": [True]}
        normalize = normalizer("gaussian", statistics, (Dimension(name="x", unit=unit),), "test")
        np.testing.assert_allclose(normalize(np.array([[spread]])), 1, rtol=1e-6)
