"""RoIAlign against torchvision's results and against the definition, written out; wrong twins are caught."""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from vla_jax.fusion import roi_align as module
from vla_jax.fusion.roi_align import roi_align

GOLDEN = Path(__file__).parent / "golden" / "roi_align.npz"
CASES = [(grid, size) for grid in ("5x8", "14x14") for size in (1, 7)]


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def ours(features, boxes, size):
    """Of one picture, without a mask."""
    mask = jnp.ones((1, len(boxes)), bool)
    return np.asarray(roi_align(jnp.asarray(features)[None], jnp.asarray(boxes)[None], mask, size=size)[0])


def by_definition(features, boxes, size, samples=2):
    """The mean of samples x samples bilinear reads in each cell of the box, one at a time."""
    rows, columns, width = features.shape
    out = np.zeros((len(boxes), size, size, width))
    for k, p, q, i, j in np.ndindex(len(boxes), size, size, samples, samples):
        left, upper, right, lower = (float(side) for side in boxes[k])
        y = (upper + (lower - upper) * (p + (i + 0.5) / samples) / size) * rows - 0.5
        x = (left + (right - left) * (q + (j + 0.5) / samples) / size) * columns - 0.5
        if -1 <= y <= rows and -1 <= x <= columns:
            y, x = min(max(y, 0), rows - 1), min(max(x, 0), columns - 1)
            for r, c in {(math.floor(y) + s, math.floor(x) + t) for s in (0, 1) for t in (0, 1)}:
                weight = (1 - abs(y - r)) * (1 - abs(x - c))
                if weight > 0:
                    out[k, p, q] += weight * features[r, c] / samples**2
    return out


def difference(found, expected) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(("grid", "size"), CASES)
def test_results_are_torchvisions(grid, size, golden):
    found = ours(golden[f"features_{grid}"], golden["boxes"], size)
    assert difference(found, golden[f"out_{grid}_{size}"]) < 5e-6


@pytest.mark.parametrize(("grid", "size"), CASES)
def test_results_are_those_of_the_definition(grid, size, golden):
    features = golden[f"features_{grid}"]
    random = np.random.default_rng(1)
    corners = np.sort(random.uniform(-0.3, 1.3, (12, 2, 2)), axis=1)
    boxes = np.concatenate([golden["boxes"], corners.reshape(-1, 4).astype(np.float32)])
    assert difference(ours(features, boxes, size), by_definition(features, boxes, size)) < 1e-5


@pytest.mark.parametrize(("constant", "value"), [("PIXEL_CENTRE", 0.0), ("SAMPLES", 1)])
@pytest.mark.parametrize(("grid", "size"), CASES)
def test_unaligned_boxes_and_single_samples_are_caught(constant, value, grid, size, golden, monkeypatch):
    monkeypatch.setattr(module, constant, value)
    found = ours(golden[f"features_{grid}"], golden["boxes"], size)
    assert difference(found, golden[f"out_{grid}_{size}"]) > 0.05


@pytest.mark.parametrize(("grid", "size"), CASES)
def test_swapped_rows_and_columns_are_caught(grid, size, golden):
    features, boxes, expected = golden[f"features_{grid}"], golden["boxes"], golden[f"out_{grid}_{size}"]
    assert difference(ours(features, boxes[:, [1, 0, 3, 2]], size), expected) > 0.05
    assert difference(ours(features.swapaxes(0, 1), boxes, size), expected) > 0.05


def test_boxes_belong_to_their_own_picture_and_need_no_compilation_of_their_own(golden):
    features = np.stack([golden["features_5x8"], golden["features_5x8"][::-1] + 1])
    boxes = np.stack([golden["boxes"], golden["boxes"][::-1]])
    compiled = jax.jit(functools.partial(roi_align, size=7))
    mask = np.ones(boxes.shape[:2], bool)
    found = compiled(features, boxes, mask)
    for picture in range(2):
        expected = by_definition(features[picture], boxes[picture], 7)
        assert difference(np.asarray(found[picture]), expected) < 1e-5
    compiled(features, boxes[:, ::-1] * 0.5, ~mask)
    assert compiled._cache_size() == 1


def test_padded_boxes_give_zeros_and_no_gradient(golden):
    features, boxes = jnp.asarray(golden["features_5x8"])[None], golden["boxes"][None].copy()
    is_box = np.arange(boxes.shape[1])[None] % 2 == 0
    boxes[~is_box] = np.nan
    boxes, mask = jnp.asarray(boxes), jnp.asarray(is_box)

    def loss(features, boxes, mask):
        return (roi_align(features, boxes, mask, size=3) ** 2).sum()

    out = np.asarray(roi_align(features, boxes, mask, size=3))
    assert not out[~is_box].any()
    np.testing.assert_allclose(out[is_box], ours(features[0], boxes[mask], 3), atol=1e-6)
    of_features, of_boxes = jax.grad(loss, argnums=(0, 1))(features, boxes, mask)
    assert not np.asarray(of_boxes)[~is_box].any()
    assert np.asarray(of_boxes)[is_box].any()
    alone = jax.grad(loss)(features, boxes[mask][None], mask[mask][None])
    np.testing.assert_allclose(of_features, alone, atol=1e-5)
    assert not np.asarray(jax.grad(loss)(features, boxes, jnp.zeros_like(mask))).any()


def test_gradients_are_those_of_finite_differences(golden):
    features, boxes = golden["features_5x8"], np.array([[0.13, 0.22, 0.61, 0.87], [0.3, 0.4, 0.45, 0.9]], np.float32)

    def loss(features, boxes):
        one, boxes = jnp.asarray(features)[None], jnp.asarray(boxes)[None]
        return jnp.sin(roi_align(one, boxes, jnp.ones((1, 2), bool), size=2)).sum()

    jax.test_util.check_grads(loss, (features, boxes), order=1, modes=["rev"], eps=1e-3)


def test_bfloat16_features_stay_bfloat16(golden):
    features = golden["features_14x14"]
    found = ours(jnp.asarray(features, jnp.bfloat16), golden["boxes"], 7)
    assert found.dtype == jnp.bfloat16
    assert difference(found.astype(np.float32), golden["out_14x14_7"]) < 0.02
