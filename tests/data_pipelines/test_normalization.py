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
        ("quantile", [[0, 0, 0.4], [1, 0, 1]]),
    ],
)
def test_each_mode_and_its_inverse(mode, expected):
    normalize = build(mode)
    np.testing.assert_allclose(normalize(X), expected, atol=1e-6)
    np.testing.assert_allclose(normalize.inverse(normalize(X)), X, atol=1e-6)


def test_quantile_clips_what_it_normalises_and_nothing_else():
    out = build("quantile")(np.array([[9.0, 1.0, 7.0], [-9.0, 1.0, -7.0]], np.float32))
    np.testing.assert_allclose(out, [[1, 0, 7], [-1, 0, -7]])


@pytest.mark.parametrize("mode", ["gaussian", "quantile"])
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
