"""The layout of a run on disk, and the manifest that says a folder is complete and undamaged.

    RUN/config.json env.json metrics.jsonl quarantine.jsonl
    RUN/logs/PROCESS-HOST.log           what each process logs
    RUN/profile                         what --profile traced
    RUN/tokenizer/tokenizer.json        the vocabulary the run reads text with
    RUN/data/...                        index, tables and statistics, unless `data.cache` says elsewhere
    RUN/frozen/{parameters/, MANIFEST.json}      frozen parameters, once
    RUN/checkpoints/STEP/
        parameters/                     trainable parameters          (Orbax, by path)
        optimizer/                      optimizer state
        ema/                            moving average, where there is one
        progress/                       step and rng key
        data_position.json              {"next_step": N}: the data order is a pure function of (seed, step)
        config.json dataset_statistics.json
        MANIFEST.json                   written last; a step without it was never committed

STEP counts finished optimizer steps. A step is written as `STEP.tmp` and renamed when its manifest is in it;
one that fails its manifest is renamed `STEP.damaged`, never deleted.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from vla_jax.types import InputError

MANIFEST = "MANIFEST.json"
MANIFEST_VERSION = 1
_WRITER = re.compile(r"ocdbt\.process_(\d+)/")
"""Orbax's folder of what one process wrote."""


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def environment(self) -> Path:
        return self.path / "env.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def quarantine(self, process: int = 0) -> Path:
        """Of each process its own: the first one's is quarantine.jsonl."""
        return self.path / ("quarantine.jsonl" if process == 0 else f"quarantine-{process}.jsonl")

    def log(self, process: int) -> Path:
        return self.path / "logs" / f"{process:04}-{socket.gethostname()}.log"

    @property
    def profile(self) -> Path:
        return self.path / "profile"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def frozen(self) -> Path:
        return self.path / "frozen"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def step(self, step: int) -> Path:
        return self.checkpoints / str(step)

    def committed_steps(self) -> list[int]:
        """Steps whose manifest is present, oldest first. Digests are not checked here."""
        if not self.checkpoints.is_dir():
            return []
        names = (entry.name for entry in self.checkpoints.iterdir() if (entry / MANIFEST).is_file())
        return sorted(int(name) for name in names if name.isdigit())


@contextlib.contextmanager
def new_folder(out: Path, digests: Mapping[Path, str] | None = None) -> Iterator[Path]:
    """A folder beside `out` that takes its name, sealed by a manifest, only if nothing is raised.

    A user's folder is never replaced; `data_pipelines.cache.new_folder` replaces, and may not import this module.

    Args: digests: as of `write_manifest`, looked at when the folder is whole.

    Raises: InputError: `out` exists, or cannot be made.
    """
    if out.exists() or out.is_symlink():
        raise InputError(f"--out {out}: exists, and is never overwritten. Name another folder or remove this one")
    created = [folder for folder in out.parents if not folder.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error})") from error
    try:
        yield temporary
        write_manifest(temporary, digests)
        temporary.chmod(0o755)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty: what was made is in it
            for folder in created:
                folder.rmdir()


def write_manifest(folder: Path, digests: Mapping[Path, str] | None = None) -> None:
    """Writes `MANIFEST.json` with size and sha256 of every file beneath `folder`, atomically and synced.

    Args: digests: of large files, by who wrote them in this process and had the bytes at hand.
    """
    known = digests or {}
    files = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": known.get(path) or file_digest(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }
    temporary = folder / (MANIFEST + ".tmp")
    with temporary.open("w") as stream:
        json.dump({"schema_version": MANIFEST_VERSION, "files": files}, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(folder / MANIFEST)


def host_share(folder: Path, process: int, count: int) -> list[Path]:
    """The files beneath `folder` that one of `count` hosts digests: what it wrote itself, and its part of the rest."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MANIFEST]
    writers = [_WRITER.search(path.relative_to(folder).as_posix()) for path in files]
    owners = (int(found[1]) if found else number for number, found in enumerate(writers))
    return [path for path, owner in zip(files, owners, strict=True) if owner % count == process]


def verify_manifest(folder: Path, *, process: int = 0, count: int = 1) -> None:
    """Raises InputError on the first file that is missing, of another size, changed, or not listed.

    Args: process, count: one of so many hosts that share the reading; all of them must be content.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        version, files = manifest["schema_version"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no readable manifest ({error}); the folder is incomplete or damaged") from error
    if version != MANIFEST_VERSION:
        raise InputError(f"{path}: schema_version {version!r}, this version reads {MANIFEST_VERSION}")
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {MANIFEST}
    mine = {path.relative_to(folder).as_posix() for path in host_share(folder, process, count)}
    for name, expected in files.items():
        if name in mine or name not in present:
            _verify_file(folder, name, expected)
    if extra := sorted(present - files.keys()):
        raise InputError(f"{folder}: {extra[0]} is not listed in {MANIFEST}; the folder was changed since")


def _verify_file(folder: Path, name: str, expected: dict) -> None:
    file = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"{folder / MANIFEST}: names {name!r}, which lies outside the folder")
    if not file.is_file():
        raise InputError(f"{file}: missing, though {MANIFEST} lists it")
    if file.stat().st_size != expected["bytes"]:
        raise InputError(f"{file}: {file.stat().st_size} bytes, {expected['bytes']} in {MANIFEST}; it is damaged")
    if file_digest(file) != expected["sha256"]:
        raise InputError(f"{file}: its sha256 differs from {MANIFEST}; it is damaged")


def file_digest(path: Path) -> str:
    """sha256. `data_pipelines` may not import this module and has the same two lines."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
