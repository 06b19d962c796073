"""One safetensors file: mapped into memory to be read, streamed in blocks when it is written.

The library checks a file whole (offsets without gaps or overlaps, lengths, dtypes); we read its header again for the
offsets, because its numpy door copies what it reads. Writing is ours: the library wants all tensors in memory.
"""

import hashlib
import json
import mmap
import struct
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import ml_dtypes  # noqa: F401 (numpy then knows bfloat16 by its name)
import numpy as np
from safetensors import SafetensorError, safe_open

from vla_jax.lazy_tensor import BLOCK_BYTES, LazyTensor, blocks, index_shape
from vla_jax.types import InputError

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Safetensors' names -> numpy's; others are named in lower case as the file has them."""
NAMES = {np.dtype(name): stored for stored, name in DTYPES.items()}
PARAMETERS_FILE = "parameters.safetensors"
"""Of a parameter folder: parameters by path."""
ALIGNMENT = 64
"""Of the first tensor, in bytes: XLA's on the CPU."""


class TensorFile:
    def __init__(self, path: Path):
        """Raises InputError: truncated, overlong, damaged, or no safetensors file."""
        self.path = path
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: {_damage(path)} ({error}); fetch it again") from error
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            self._header = json.loads(stream.read(length))
            self._bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._header.pop("__metadata__", None)
        self._start = 8 + length

    def names(self) -> list[str]:
        return sorted(self._header)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._header[name]["shape"])

    def dtype(self, name: str) -> str:
        stored = self._header[name]["dtype"]
        return DTYPES.get(stored, stored.lower())

    def read(self, name: str) -> np.ndarray:
        """A view of the file: read-only, brought in as it is looked at."""
        start = self._start + self._header[name]["data_offsets"][0]
        return np.ndarray(self.shape(name), np.dtype(self.dtype(name)), self._bytes, start)


def read_tensor_file(path: Path) -> dict[str, np.ndarray]:
    """Read-only views of the mapped file, by name."""
    file = TensorFile(path)
    return {name: file.read(name) for name in file.names()}


def write_tensor_file(
    path: Path, tensors: Mapping[str, LazyTensor], *, advance: Callable[[int], None] = lambda num_bytes: None
) -> str:
    """Writes under a temporary name, which nothing is left of if something is raised. Returns: the file's sha256.

    Args: advance: is told how many bytes were read, block after block.
    """
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize))  # so that each is aligned
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb", buffering=0) as stream, _Sink(stream) as sink:
            _finish(sink.write(_header(tensors)))
            _stream(sink, tensors, advance)
        temporary.replace(path)
        return sink.digest.hexdigest()
    finally:
        temporary.unlink(missing_ok=True)


def _header(tensors: Mapping[str, LazyTensor]) -> bytes:
    tree: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        tree[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(tree, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


class _Sink:
    """Where the bytes go, and their digest, in a thread each: either takes as long as filling a block does."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self.digest = hashlib.sha256()
        self._threads = ThreadPoolExecutor(1), ThreadPoolExecutor(1)

    def __enter__(self) -> "_Sink":
        return self

    def __exit__(self, *raised: object) -> None:
        for thread in self._threads:
            thread.shutdown()

    def write(self, data: bytes | memoryview) -> tuple[Future, Future]:
        """Returns: what must be done before `data` changes."""
        hasher, writer = self._threads
        return hasher.submit(self.digest.update, data), writer.submit(self._write, data)

    def _write(self, data: bytes | memoryview) -> None:
        """All of it: an unbuffered file may take less."""
        remaining = memoryview(data)
        while remaining:
            remaining = remaining[self._stream.write(remaining) :]


def _stream(sink: _Sink, tensors: Mapping[str, LazyTensor], advance: Callable[[int], None]) -> None:
    """One block is transposed here while those before are hashed and written."""
    buffers = [np.empty(BLOCK_BYTES, np.uint8) for _ in range(3)]
    pending: deque[tuple[Future, Future]] = deque()
    for tensor in tensors.values():
        for index in blocks(tensor.shape, tensor.dtype.itemsize, BLOCK_BYTES):
            if len(pending) == len(buffers):
                _finish(pending.popleft())
            buffers.append(buffers.pop(0))
            block = np.ndarray(index_shape(index), tensor.dtype, buffers[-1])
            tensor.fill(block, index)
            pending.append(sink.write(buffers[-1][: block.nbytes].data))
            advance(block.nbytes)
    for tasks in pending:
        _finish(tasks)


def _finish(tasks: tuple[Future, Future]) -> None:
    for task in tasks:
        task.result()


def _damage(path: Path) -> str:
    """What is wrong with a file that safetensors refuses."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        if start == b"version ":
            return "a Git LFS pointer, not the weights: run `git lfs pull`"
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if 8 + length > size:
            return f"truncated or no safetensors file: {size} bytes, too few for its header"
        try:
            header = json.loads(stream.read(length))
            data = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return f"its header is damaged, {size} bytes in all"
    if 8 + length + data == size:
        return f"its header is damaged: dtypes, shapes or offsets do not agree, {size} bytes in all"
    return f"truncated or overlong: {size} bytes found, {8 + length + data} expected"
