"""Lazy tensors onto devices: each gets its own part, and the host holds a block of it at most.

On the CPU a device's memory is the host's: the part is brought in where it stays.
"""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np

from vla_jax.lazy_tensor import BLOCK_BYTES, Index, LazyTensor, blocks, index_shape

HOST_PLATFORM = "cpu"
ALIGNMENT = 64
"""Bytes; XLA on the CPU takes such memory over as it is and copies other."""


def put(tensor: LazyTensor, sharding: jax.sharding.Sharding | None = None) -> jax.Array:
    """Args: sharding: None: the default device, to which the array is not bound."""
    if sharding is None:
        return _put(tensor, tuple(slice(0, size) for size in tensor.shape), [None])[0]
    devices = collections.defaultdict(list)
    for device, index in sharding.addressable_devices_indices_map(tensor.shape).items():
        bounds = tuple(part.indices(size)[:2] for part, size in zip(index or (), tensor.shape, strict=True))
        devices[bounds].append(device)
    arrays = [
        array
        for bounds, holders in devices.items()
        for array in _put(tensor, tuple(slice(start, stop) for start, stop in bounds), holders)
    ]
    return jax.make_array_from_single_device_arrays(tensor.shape, sharding, arrays)


def _put(tensor: LazyTensor, index: Index, devices: list[jax.Device | None]) -> list[jax.Array]:
    """One part, on each of the devices."""
    shape = index_shape(index)
    size = int(np.prod(shape)) * tensor.dtype.itemsize
    if size <= BLOCK_BYTES or (devices[0] or jax.devices()[0]).platform == HOST_PLATFORM:
        buffer = _aligned(shape, tensor.dtype)
        tensor.fill(buffer, index)
        return [jax.device_put(buffer, device) for device in devices]
    wholes = [jnp.zeros(shape, tensor.dtype, device=device) for device in devices]
    for part in blocks(shape, tensor.dtype.itemsize, BLOCK_BYTES):
        starts = [inner.start for inner in part]
        there = (slice(outer.start + i.start, outer.start + i.stop) for outer, i in zip(index, part, strict=True))
        block = tensor.read(tuple(there))
        wholes = [_write(into, jax.device_put(block, device), starts) for into, device in zip(wholes, devices)]
    return wholes


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


@functools.partial(jax.jit, donate_argnums=0)
def _write(whole: jax.Array, block: jax.Array, starts: list[int]) -> jax.Array:
    return jax.lax.dynamic_update_slice(whole, block, starts)
