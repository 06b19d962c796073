"""Lazy tensors: every bit arrives where it belongs, whatever part is asked for."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from vla_jax.lazy_tensor import LazyTensor, Piece, blocks, copy, count_non_finite, joined, of_array, whole


def every_bfloat16() -> np.ndarray:
    return np.arange(65536, dtype=np.uint16).view(jnp.bfloat16)


def bits(array: np.ndarray) -> np.ndarray:
    return array.view(f"u{array.dtype.itemsize}")


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_all_bfloat16_patterns_survive_any_transpose(order):
    """300 and 301 are more than a tile, and leave a rest."""
    source = np.resize(every_bfloat16(), (2, 300, 301)).transpose(order)
    target = np.empty(source.shape, source.dtype)
    copy(target, source)
    np.testing.assert_array_equal(bits(target), bits(np.ascontiguousarray(source)))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.bool_])
def test_other_dtypes_are_copied_bit_for_bit(dtype):
    source = np.random.default_rng(0).normal(size=(260, 5, 3)).astype(dtype)
    target = np.empty((3, 260, 5), dtype)
    copy(target, source.transpose(2, 0, 1))
    np.testing.assert_array_equal(target, source.transpose(2, 0, 1))


def test_another_dtype_is_a_cast_and_scalars_have_no_axis():
    target = np.empty((), np.float32)
    copy(target, np.array(1.5, jnp.bfloat16))
    assert target == 1.5
    assert of_array(np.array(2.5)).read() == 2.5
    assert of_array(np.array([0.5, 0.1], np.float32)).cast(np.dtype(jnp.bfloat16)).read().dtype == jnp.bfloat16


@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (3, 5), (2, 3, 4, 5), (1, 1)])
@pytest.mark.parametrize("limit", [8, 20, 64, 10**6])
def test_blocks_are_the_tensor_in_the_order_of_memory(shape, limit):
    tensor = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    parts = [tensor[index] for index in blocks(shape, 4, limit)]
    assert all(part.nbytes <= limit for part in parts)
    assert np.concatenate([part.ravel() for part in parts] or [np.empty(0)]).tolist() == tensor.ravel().tolist()


def test_any_part_of_joined_pieces_is_what_the_whole_has_there():
    arrays = [np.random.default_rng(seed).normal(size=(3, 2, rows)).T for seed, rows in enumerate((2, 1, 4))]
    expected, lazy = np.concatenate(arrays), joined([of_array(array) for array in arrays])
    assert lazy.shape == expected.shape
    for start, stop in itertools.combinations(range(8), 2):
        part = (slice(start, stop), slice(1, 2), slice(0, 3))
        np.testing.assert_array_equal(lazy.read(part), expected[part])


def test_a_view_copies_only_where_it_must():
    array = np.ones((3, 4))
    assert np.shares_memory(of_array(array).view(), array)
    assert not np.shares_memory(joined([of_array(array)] * 2).view(), array)


def test_a_piece_that_is_not_asked_for_is_not_opened():
    def closed() -> np.ndarray:
        raise AssertionError("opened")

    lazy = LazyTensor((4, 2), np.dtype(np.float64), (Piece(2, lambda: np.ones((2, 2))), Piece(2, closed)))
    assert lazy.read((slice(0, 2), slice(0, 2))).sum() == 4
    with pytest.raises(AssertionError, match="opened"):
        lazy.read((slice(1, 3), slice(0, 2)))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_only_infinities_and_nan_count_as_not_finite(dtype):
    array = np.zeros((5, 7), dtype)
    array[0, :3] = [np.finfo(np.float16).max, -1, 6e-8]
    assert count_non_finite(array) == 0
    array[1, :4] = [np.inf, -np.inf, np.nan, -np.nan]
    assert count_non_finite(array) == 4


def test_of_all_bfloat16_patterns_one_exponent_is_not_finite():
    assert count_non_finite(every_bfloat16()) == 256
    assert whole((2, 3)) == (slice(0, 2), slice(0, 3))
