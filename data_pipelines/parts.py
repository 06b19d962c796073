"""Work done a shard at a time, so that a run that was killed goes on with the shards that it had not finished.

A part is what one shard gives: named arrays in one file, written whole, whose folder and name tell all that it was
made from. Parts lie in `Work.folder` until they were put together.
"""

import contextlib
import dataclasses
import hashlib
import logging
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import Progress

from data_pipelines.cache import ABANDONED_SECONDS, new_file
from data_pipelines.workers import start_workers

Part = Mapping[str, np.ndarray]
ATTEMPTS = 3
LOG = logging.getLogger(__name__)
T = TypeVar("T")
Unit = TypeVar("Unit")


class PartLostError(Exception):
    """A part is gone or broken: another process put them together first, or a disk failed."""


@dataclasses.dataclass(frozen=True)
class Work(Generic[Unit]):
    folder: Path
    units: dict[str, Unit]
    """What each part is made from, by the part's name, in the order in which parts are put together."""
    make: Callable[[Unit], Part]
    """A function of a module, or a `functools.partial` of one: it travels to other processes."""
    description: str

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"

    def missing(self) -> list[str]:
        return [name for name in self.units if not zipfile.is_zipfile(self.path(name))]

    def parts(self) -> Iterator["StoredPart"]:
        """One at a time, in order."""
        for name in self.units:
            with StoredPart(self.path(name)) as part:
                yield part


class StoredPart(Part):
    """Arrays are read when they are asked for; PartLostError where that fails."""

    def __init__(self, path: Path):
        self._path = path
        self._file = self._guard(lambda: np.load(path, allow_pickle=False))

    def __getitem__(self, key: str) -> np.ndarray:
        return self._guard(lambda: self._file[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._file)

    def __len__(self) -> int:
        return len(self._file)

    def __enter__(self) -> "StoredPart":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def _guard(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (OSError, zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
            with contextlib.suppress(OSError):
                self._path.unlink()
            raise PartLostError(f"{self._path}: {error}") from error


def write_part(path: Path, part: Part) -> None:
    with new_file(path) as stream:
        np.savez(stream, allow_pickle=False, **part)


def part_digest(*made_from: object) -> str:
    """Short, for the names of parts and of their folders."""
    return hashlib.sha256("\n".join(map(str, made_from)).encode()).hexdigest()[:16]


def find_or_build(find: Callable[[], T | None], build: Callable[[], None]) -> T:
    """What `find` gives; where that is None, `build` is called and it is asked again."""
    for attempt in range(ATTEMPTS):
        if (found := find()) is not None:
            return found
        try:
            build()
        except PartLostError as error:
            LOG.warning("%s; looking again", error)
            if attempt == ATTEMPTS - 1:
                raise
    found = find()
    assert found is not None, "what was built is not found"
    return found


@contextlib.contextmanager
def made(work: Work, *, jobs: int) -> Iterator[None]:
    """In the block all parts are there; when it succeeds, they are removed."""
    _remove_abandoned(work.folder)
    try:
        make_missing(work, jobs=jobs)
        yield
    except PartLostError:  # another process has finished and removed them: what was made since is nobody's
        _remove(work.folder)
        raise
    _remove(work.folder)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


def make_missing(work: Work, *, jobs: int) -> None:
    missing = work.missing()
    if not missing:
        return
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(work.description, total=len(work.units), completed=len(work.units) - len(missing))
        for _ in _results(work, missing, min(jobs, len(missing))):
            progress.advance(bar)


def _results(work: Work, missing: list[str], jobs: int) -> Iterator[None]:
    if jobs == 1:
        for name in missing:
            _make(work, name)
            yield
        return
    with start_workers(jobs, _begin, dataclasses.replace(work, units={})) as workers:
        futures = [workers.submit(_make_here, name, work.units[name]) for name in missing]
        try:
            for future in futures:
                yield future.result()
        except BaseException:
            workers.shutdown(wait=False, cancel_futures=True)
            raise


_work: list[Work] = []
"""Of a worker: sent once, not with every unit."""


def _begin(work: Work) -> None:
    _work[:] = [work]


def _make_here(name: str, unit: Any) -> None:
    _make(dataclasses.replace(_work[0], units={name: unit}), name)


def _make(work: Work, name: str) -> None:
    try:
        write_part(work.path(name), work.make(work.units[name]))
    except FileNotFoundError as error:
        raise PartLostError(f"{work.folder}: {error}") from error


def _remove_abandoned(folder: Path) -> None:
    """Parts of a run that was killed and never came back; its code or data are others now."""
    for path in folder.parent.glob("*"):
        with contextlib.suppress(OSError):
            if path != folder and time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(path)
