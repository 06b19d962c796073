"""Resampling of grids against `torch.nn.functional.interpolate`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity import relative_error
from vla_jax.nn.interpolation import resize_grid

torch = pytest.importorskip("torch")

THEIRS = {
    "bilinear": {"mode": "bilinear", "align_corners": False},
    "bilinear_corners": {"mode": "bilinear", "align_corners": True},
    "bicubic": {"mode": "bicubic", "align_corners": False},
    "bicubic_antialias": {"mode": "bicubic", "align_corners": False, "antialias": True},
}
SIZES = [
    ((5, 5), (5, 5)),
    ((5, 5), (7, 3)),  # one side up, one down
    ((7, 4), (15, 9)),
    ((16, 11), (3, 5)),
    ((37, 37), (16, 23)),  # DINOv2's table for other pictures
    ((2, 2), (9, 1)),
    ((1, 3), (4, 2)),
]


def grid_of(size) -> np.ndarray:
    return np.random.default_rng(sum(size)).normal(size=(2, *size, 3)).astype(np.float32)


def their_grid(grid, size, method):
    resized = torch.nn.functional.interpolate(torch.tensor(grid).permute(0, 3, 1, 2), size=size, **THEIRS[method])
    return resized.permute(0, 2, 3, 1)


@pytest.mark.parametrize("method", THEIRS)
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_every_method_is_torchs(method, source, target):
    grid = grid_of(source)
    assert relative_error(resize_grid(jnp.asarray(grid), *target, method), their_grid(grid, target, method)) <= 3e-6


@pytest.mark.parametrize(("method", "wrong"), [(a, b) for a in THEIRS for b in THEIRS if a != b])
def test_no_method_passes_for_another(method, wrong):
    grid = grid_of((16, 11))
    assert relative_error(resize_grid(jnp.asarray(grid), 3, 5, wrong), their_grid(grid, (3, 5), method)) > 1e-2


def test_bicubic_of_jax_image_is_another_one():
    grid = grid_of((5, 5))
    resized = jax.image.resize(jnp.asarray(grid), (2, 7, 9, 3), "cubic", antialias=False)
    assert relative_error(resized, their_grid(grid, (7, 9), "bicubic")) > 1e-2


def test_half_precision_is_computed_in_float32_and_given_back():
    grid = jnp.asarray(grid_of((5, 5))).astype(jnp.bfloat16)
    resized = resize_grid(grid, 7, 3, "bicubic")
    assert resized.dtype == jnp.bfloat16
    expected = resize_grid(grid.astype(jnp.float32), 7, 3, "bicubic").astype(jnp.bfloat16)
    np.testing.assert_array_equal(resized, expected)
