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
from typing import Any

import numpy as np

from vla_jax.types import InputError

ABANDONED_SECONDS = 7 * 24 * 3600


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Gives a temporary folder that becomes `target`, replacing what was there, when the block succeeds.

    Unlike `vla_jax.run_directory.new_folder`, which never replaces anything and seals a user's folder.
    """
    parent = _writable(target.parent)
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
    parent = _writable(target.parent)
    _remove_abandoned(target)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=parent)
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(target)
    finally:
        Path(name).unlink(missing_ok=True)


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


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: the cache cannot be written ({error}); name another with data.cache") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder}: the cache cannot be written; name another with data.cache")
    return folder
