"""Lazy tensors on devices: each brings in its own part and no more."""

import jax
import numpy as np
import pytest

from vla_jax import placement
from vla_jax.lazy_tensor import LazyTensor, Piece, of_array
from vla_jax.placement import put


def mesh() -> jax.sharding.Mesh:
    return jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)


def sharding(*axes) -> jax.sharding.NamedSharding:
    return jax.sharding.NamedSharding(mesh(), jax.sharding.PartitionSpec(*axes))


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    "axes", [(), (None, "fsdp"), ("tensor", "fsdp"), (("fsdp", "tensor"),), (None, None, "tensor")]
)
def test_every_sharding_holds_the_tensor(axes):
    array = numbers(8, 4, 6)
    placed = put(of_array(array), sharding(*axes))
    assert placed.sharding == sharding(*axes)
    np.testing.assert_array_equal(placed, array)


def test_a_device_reads_its_own_part_once_and_no_layer_beside_it():
    array, copied = numbers(3, 8, 6), []
    pieces = tuple(Piece(1, lambda i=i: array[i : i + 1], lambda part: copied.append(part.shape)) for i in range(3))
    tensor = LazyTensor(array.shape, array.dtype, pieces)
    placed = put(tensor, sharding(None, "fsdp"))
    np.testing.assert_array_equal(placed, array)
    assert copied == [(1, 2, 6)] * 3 * 4  # 4 parts of 3 layers; those of `tensor` are the same


def test_without_a_sharding_an_array_is_bound_to_no_device():
    placed = put(of_array(numbers(2, 3)))
    np.testing.assert_array_equal(placed, numbers(2, 3))
    assert not placed.committed
    np.testing.assert_array_equal(placed + put(of_array(numbers(2, 3)), sharding()), 2 * numbers(2, 3))
    assert put(of_array(np.array(1.5, np.float32))) == 1.5


def test_an_accelerator_gets_a_large_part_block_by_block(monkeypatch):
    """As on one; the CPU stands in for it."""
    array, largest = numbers(5, 6, 7), []
    monkeypatch.setattr(placement, "BLOCK_BYTES", 4 * 7 * 4)
    monkeypatch.setattr(placement, "HOST_PLATFORM", "another")
    tensor = LazyTensor(array.shape, array.dtype, (Piece(5, lambda: array, lambda part: largest.append(part.nbytes)),))

    placed = put(tensor, sharding(None, "tensor"))

    np.testing.assert_array_equal(placed, array)
    assert max(largest) <= 4 * 7 * 4
    np.testing.assert_array_equal(put(tensor), array)
