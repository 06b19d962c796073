"""Writing into the cache so that a reader sees a whole file or folder, or none.

Temporary ones, `.NAME.XXXXXXXX`, lie beside their target. Those of a process that was killed are removed when the
same target is written again a week later: no build takes so long.
"""

import contextlib
import glob
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vla_jax.types import InputError

ABANDONED_SECONDS = 7 * 24 * 3600


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Gives a temporary folder that becomes `target`, replacing what was there, when the block succeeds.

    Unlike `vla_jax.run_directory.new_folder`, which never replaces anything and seals a user's folder.
    """
    parent = writable(target.parent)
    _remove_abandoned(target)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        for _ in range(100):  # another process may put its own in place at the same time
            if target.exists():
                with contextlib.suppress(FileNotFoundError):
                    target.rename(temporary.with_name(temporary.name + ".old"))
            try:
                temporary.rename(target)
                break
            except OSError:
                if not target.exists():
                    raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(temporary.with_name(temporary.name + ".old"), ignore_errors=True)


def write_json(target: Path, tree: Any) -> None:
    content = json.dumps(tree, indent=1, allow_nan=False) + "\n"
    writable(target.parent)
    _remove_abandoned(target)
    with new_file(target) as stream:
        stream.write(content.encode())


@contextlib.contextmanager
def new_file(target: Path) -> Iterator[BinaryIO]:
    """Gives a temporary file that becomes `target`, replacing what was there, when the block succeeds.

    What a killed process left is not looked for: that would cost a listing of the folder for each of many files.
    """
    parent = writable(target.parent)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
        Path(name).chmod(0o644)
        Path(name).replace(target)
    finally:
        Path(name).unlink(missing_ok=True)


class ArrayWriter:
    """A `.npy` file written some rows at a time, the same bytes as numpy's `save` of all."""

    def __init__(self, stream: BinaryIO, num_rows: int):
        self._stream, self._num_rows, self._left = stream, num_rows, num_rows
        self._kind: tuple[Any, ...] | None = None

    def append(self, rows: np.ndarray) -> None:
        kind = rows.dtype, rows.shape[1:]
        if self._kind is None:
            self._kind, shape = kind, (self._num_rows, *rows.shape[1:])
            header = {"descr": np.lib.format.dtype_to_descr(rows.dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(self._stream, header)
        if kind != self._kind:
            raise ValueError(f"rows of {kind} after rows of {self._kind}")
        self._left -= len(rows)
        self._stream.write(np.ascontiguousarray(rows).tobytes())

    def finish(self) -> None:
        if self._kind is None and not self._num_rows:
            self.append(np.zeros(0))
        if self._left:
            raise ValueError(f"{self._num_rows - self._left} of {self._num_rows} rows")


@contextlib.contextmanager
def new_array(path: Path, num_rows: int) -> Iterator[ArrayWriter]:
    """In a folder that is not yet in place: `path` is written as it comes."""
    with path.open("wb") as stream:
        yield (writer := ArrayWriter(stream, num_rows))
        writer.finish()


def load_array(path: Path) -> np.ndarray:
    """A memory-mapped `.npy`; ValueError or OSError where it is damaged."""
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except ValueError:  # an empty array cannot be mapped
        array = np.load(path, allow_pickle=False)
        if array.size:
            raise
        return array


def _remove_abandoned(target: Path) -> None:
    for path in target.parent.glob(f".{glob.escape(target.name)}.????????*"):
        with contextlib.suppress(OSError):  # another process removes it too
            if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: the cache cannot be written ({error}); name another with data.cache") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder}: the cache cannot be written; name another with data.cache")
    return folder
