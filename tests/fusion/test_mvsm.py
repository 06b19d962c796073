"""MVSM: the grid's cells and the boxes' features as tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from data_pipelines.transforms.boxes import GridBoxes
from vla_jax.fusion.mvsm import MvsmConfig, grid_boxes, inside_box

BOXES = jnp.array([[[0.1, 0.2, 0.7, 0.9], [0.0, 0.0, 0.5, 0.5], [0.4, 0.1, 1.0, 0.6]]])


@pytest.fixture(scope="module")
def grids():
    return jax.random.normal(jax.random.key(0), (1, 1, 3, 5, 8))


def build(**changes):
    return MvsmConfig(roi_size=2, **changes).build(8, 6, nnx.Rngs(0))


def seen(frames: int = 1):
    return jnp.ones((1, frames), bool)


def test_the_grid_comes_first_row_by_row_and_then_the_boxes(grids):
    found = build()(grids, seen(), BOXES, jnp.ones((1, 3), bool))
    assert found.tokens.shape == (1, 18, 6)
    assert found.local.shape == (1, 3, 6)
    np.testing.assert_allclose(found.tokens[0, 7], build().projection(grids[0, 0, 1, 2]), rtol=1e-5, atol=1e-6)


def test_another_order_of_boxes_is_another_order_of_local_tokens_alone(grids):
    every, order = jnp.ones((1, 3), bool), jnp.array([2, 0, 1])
    found, other = build()(grids, seen(), BOXES, every), build()(grids, seen(), BOXES[:, order], every)
    np.testing.assert_array_equal(found.tokens[:, :15], other.tokens[:, :15])
    np.testing.assert_allclose(found.local[:, order], other.local, atol=1e-6)
    assert np.abs(found.local - other.local).max() > 1e-3


def test_padded_boxes_are_masked_whatever_they_hold(grids):
    mask = jnp.array([[True, False, True]])
    found = build()(grids, seen(), BOXES, mask)
    other = build()(grids, seen(), BOXES.at[0, 1].set(jnp.nan), mask)
    np.testing.assert_array_equal(found.tokens, other.tokens)
    assert found.local_mask.tolist() == [[True, False, True]]


def test_a_box_over_a_single_cell_is_that_cell_with_one_place_a_box(grids):
    """P = 1, and the box so small that both samples lie in the cell's middle."""
    box = jnp.array([[[2.4999 / 5, 1.4999 / 3, 2.5001 / 5, 1.5001 / 3]]])
    module = MvsmConfig(roi_size=1).build(8, 6, nnx.Rngs(0))
    found = module(grids, seen(), box, jnp.ones((1, 1), bool))
    np.testing.assert_allclose(found.local[0, 0], module.projection(grids[0, 0, 1, 2]), atol=1e-3)


def test_frames_stand_side_by_side_and_a_missing_picture_has_no_tokens(grids):
    both = jnp.concatenate([grids, grids + 1], axis=1)
    found = build()(both, jnp.array([[False, True]]), BOXES, jnp.ones((1, 3), bool))
    assert found.mask.tolist() == [[False] * 15 + [True] * 18]
    np.testing.assert_allclose(found.local, build()(grids + 1, seen(), BOXES, jnp.ones((1, 3), bool)).local, atol=1e-6)
    missing = build()(grids, jnp.zeros((1, 1), bool), BOXES, jnp.ones((1, 3), bool))
    assert not missing.mask.any()


def test_a_grid_may_be_resampled(grids):
    square = jnp.broadcast_to(jnp.arange(4.0)[:, None, None], (1, 1, 4, 4, 8))
    found = build(cells=2)(square, seen())
    assert found.tokens.shape == (1, 4, 6)
    expected = build().projection(jnp.full(8, 0.5))
    np.testing.assert_allclose(found.tokens[0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("count", [1, 5, 9, 16])
def test_squares_for_want_of_boxes_are_the_data_pipelines(count):
    np.testing.assert_array_equal(grid_boxes(count), GridBoxes(count)())


def test_the_tokens_of_a_box_are_the_cells_with_their_middle_in_it_and_its_own():
    inside = inside_box(jnp.array([[[0, 0, 0.5, 0.5], [0.5, 0, 1, 1]]]), jnp.array([1]), 2, 4, num_frames=2)
    assert inside[0].tolist() == [False] * 8 + [False, False, True, True] * 2 + [False, True]
    assert not inside_box(BOXES, jnp.array([-1]), 2, 4, num_frames=1).any()
