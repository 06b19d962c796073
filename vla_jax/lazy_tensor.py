"""A tensor that is not in memory: its shape and dtype, and how any part of it comes into a buffer.

Weights go from file to file and from file to device in this form, a block at a time: the layers of a stacked parameter
are one tensor each in a Hugging Face file, and fused projections are one tensor of several parameters.

Transposes are what costs. numpy takes 4 to 18 s/GB for one, and 0.5, less than torch, in tiles that stay in the
processor's cache, over integers of the same width (its loops over bfloat16 are slower). Bits are therefore kept, NaN
payloads among them.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

BLOCK_BYTES = 32 * 2**20
TILE = 256
"""Rows and columns: 128 kB of bfloat16."""
PADDING = 32
"""Of a tile's rows: see `_transpose`."""
Index = tuple[slice, ...]
"""One slice an axis, with start and stop, step 1."""


class Piece(NamedTuple):
    """Some of a tensor's rows: of its leading axis."""

    rows: int
    open: Callable[[], np.ndarray]
    """[rows, ...]: a view of a mapped file or of an array, in any memory order."""
    check: Callable[[np.ndarray], None] | None = None
    """Is shown what was copied out; raises InputError."""


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    shape: tuple[int, ...]
    dtype: np.dtype
    """Of the buffers that it is copied into. Pieces of another dtype are cast."""
    pieces: tuple[Piece, ...]
    """They follow one another along the leading axis. A tensor without axes has one piece."""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def cast(self, dtype: np.dtype) -> "LazyTensor":
        return dataclasses.replace(self, dtype=np.dtype(dtype))

    def read(self, index: Index | None = None) -> np.ndarray:
        index = whole(self.shape) if index is None else index
        buffer = np.empty(index_shape(index), self.dtype)
        self.fill(buffer, index)
        return buffer

    def view(self) -> np.ndarray:
        """Without a copy where it is one piece of the right dtype, unchecked."""
        (piece, *others) = self.pieces
        array = piece.open()
        return self.read() if others or array.dtype != self.dtype else array

    def fill(self, buffer: np.ndarray, index: Index) -> None:
        """Copies the part at `index` into `buffer`, an array of its shape in C order."""
        if not self.shape:
            return self._copy(self.pieces[0], buffer, ())
        first = 0
        for piece in self.pieces:
            start, stop = (min(max(bound - first, 0), piece.rows) for bound in (index[0].start, index[0].stop))
            if start < stop:
                into = slice(first + start - index[0].start, first + stop - index[0].start)
                self._copy(piece, buffer[into], (slice(start, stop), *index[1:]))
            first += piece.rows
        return None

    def _copy(self, piece: Piece, buffer: np.ndarray, index: Index) -> None:
        copy(buffer, piece.open()[index])
        if piece.check is not None:
            piece.check(buffer)


def of_array(array: np.ndarray) -> LazyTensor:
    rows = array.shape[0] if array.ndim else 1
    return LazyTensor(array.shape, array.dtype, (Piece(rows, lambda: array),))


def joined(parts: Sequence[LazyTensor]) -> LazyTensor:
    """Concatenated along the leading axis."""
    rows = sum(part.shape[0] for part in parts)
    pieces = itertools.chain.from_iterable(part.pieces for part in parts)
    return LazyTensor((rows, *parts[0].shape[1:]), parts[0].dtype, tuple(pieces))


def whole(shape: Sequence[int]) -> Index:
    return tuple(slice(0, size) for size in shape)


def index_shape(index: Index) -> tuple[int, ...]:
    return tuple(part.stop - part.start for part in index)


def blocks(shape: Sequence[int], itemsize: int, limit: int = BLOCK_BYTES) -> Iterator[Index]:
    """The parts of at most `limit` bytes that a tensor in C order consists of, one after the other."""
    if not shape:
        yield ()
        return
    row_bytes = [itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    axis = next(axis for axis, size in enumerate(row_bytes) if size <= limit)
    step = max(1, limit // max(1, row_bytes[axis]))
    for outer in itertools.product(*map(range, shape[:axis])):
        for start in range(0, shape[axis], step):
            rows = slice(start, min(start + step, shape[axis]))
            yield (*(slice(i, i + 1) for i in outer), rows, *whole(shape[axis + 1 :]))


def copy(target: np.ndarray, source: np.ndarray) -> None:
    """Bit for bit where the dtypes are equal, else with a cast. Args: target: in C order."""
    if target.dtype == source.dtype:
        integers = np.dtype(f"u{target.dtype.itemsize}")
        target, source = target.view(integers), source.view(integers)
    with np.errstate(over="ignore"):  # infinities are for whoever checks what was copied
        _copy(target, source)


def _copy(target: np.ndarray, source: np.ndarray) -> None:
    long = [axis for axis, size in enumerate(source.shape) if size > 1]
    near = min(long, key=lambda axis: abs(source.strides[axis]), default=None)
    if near is None or near == long[-1]:
        target[...] = source
    elif 0 not in (near, long[-1]):
        for ours, theirs in zip(target, source):
            _copy(ours, theirs)
    else:
        _transpose(np.moveaxis(target, near, -1), np.moveaxis(source, near, -1), axis=long[-1] - 1)


def _transpose(target: np.ndarray, source: np.ndarray, axis: int) -> None:
    """Copies what lies closest together along the last axis in `source`, along `axis` in `target`.

    By way of a tile in the cache: rows of a matrix are often powers of two apart and would push one another out.
    """
    sides = tuple(min(TILE, size) if i in (axis, source.ndim - 1) else size for i, size in enumerate(source.shape))
    tile = np.empty((*sides[:-1], sides[-1] + PADDING), source.dtype)
    for i, j in itertools.product(range(0, source.shape[axis], TILE), range(0, source.shape[-1], TILE)):
        part: tuple[Any, ...] = (*[slice(None)] * axis, slice(i, i + TILE), ..., slice(j, j + TILE))
        taken = source[part]
        held = tile[tuple(slice(0, size) for size in taken.shape)]
        held[...] = taken
        target[part] = held


def count_non_finite(array: np.ndarray) -> int:
    """Of a floating array in C order, by its bits: numpy knows no fast way for bfloat16."""
    integers = np.dtype(f"u{array.dtype.itemsize}")
    exponent = np.array(np.inf, array.dtype).view(integers)
    flat, step = array.reshape(-1).view(integers), 2**15  # small: its memory is taken from the allocator's own
    chunks = (flat[start : start + step] & exponent for start in range(0, flat.size, step))
    return sum(int(np.count_nonzero(chunk == exponent)) for chunk in chunks)
