"""Writing into the cache so that a reader sees a whole file or folder, or none."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vla_jax.types import InputError


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Gives a temporary folder that becomes `target`, replacing what was there, when the block succeeds."""
    parent = _writable(target.parent)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=parent))
    try:
        yield temporary
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
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=_writable(target.parent))
    with os.fdopen(handle, "w") as stream:
        json.dump(tree, stream, indent=1, allow_nan=False)
        stream.write("\n")
    Path(name).replace(target)


def load_array(path: Path) -> np.ndarray:
    """A memory-mapped `.npy`; ValueError or OSError where it is damaged."""
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except ValueError:  # an empty array cannot be mapped
        array = np.load(path, allow_pickle=False)
        if array.size:
            raise
        return array


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: the cache cannot be written ({error}); name another with data.cache") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder}: the cache cannot be written; name another with data.cache")
    return folder
