"""The offset sidecar on disk, and how one comes to be: found and valid, or built from the shards.

    FOLDER/index.json      schema version, shards with bytes, records and digest, features, counts
    FOLDER/texts.json      the distinct texts
    FOLDER/episodes.npy    int64[episode, 5]: shard, record offset, record length, first step, number of steps
    FOLDER/NNN.npy         one column a feature, as `index.json` lists them

The same shards give the same bytes, so `Index.digest`, of index.json, identifies the data wherever they lie. A sidecar
is looked for in `DATASET/index/SPLIT` of a local data set and in `CACHE/NAME/VERSION/SPLIT/index`, always local; it is
built in the latter. It is valid when its shards have the recorded sizes and digests (`tfrecord.ContentDigest`: every
checksum verified in the same pass); `stamps.json` in the cache remembers which files were already read through, by
modification time, or by the etag, time or checksum that a remote store gives. Axes: episode, step.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.cache import load_array, new_folder, write_json
from data_pipelines.index.dataset_directory import DatasetDirectory, Shard
from data_pipelines.index.shard_index import STEPS
from data_pipelines.index.sidecar_writer import SCHEMA_VERSION, address, declared_digest, index_work, write_sidecar
from data_pipelines.index.tfrecord import content_digest
from data_pipelines.parts import find_or_build, made
from data_pipelines.storage import MAX_REQUESTS, Location, RemotePath, Stamp, stamp
from vla_jax.types import InputError

SMALL_SPLIT_BYTES = 1 << 28
"""Splits below it are indexed in this process: starting others takes longer."""
LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Index:
    """One split of one dataset. Columns are memory-mapped."""

    folder: Path
    directory: DatasetDirectory
    split: str
    tree: dict[str, Any]
    """index.json."""
    digest: str

    @property
    def num_steps(self) -> int:
        return self.tree["num_steps"]

    @property
    def num_episodes(self) -> int:
        return self.tree["num_episodes"]

    @functools.cached_property
    def shards(self) -> list[Location]:
        return [self.directory.path / shard["file"] for shard in self.tree["shards"]]

    @functools.cached_property
    def episodes(self) -> np.ndarray:
        return load_array(self.folder / "episodes.npy")

    @functools.cached_property
    def first_step(self) -> np.ndarray:
        """int64[episode + 1]: where each episode starts; the last entry is the number of steps."""
        return np.append(self.episodes[:, 3], self.num_steps)

    def shard_steps(self, number: int) -> tuple[slice, np.ndarray]:
        """The rows of a shard's steps, and the number of steps of each of its episodes."""
        first, end = np.searchsorted(self.episodes[:, 0], [number, number + 1])
        return slice(int(self.first_step[first]), int(self.first_step[end])), self.episodes[first:end, 4]

    @functools.cached_property
    def texts(self) -> list[str]:
        """Distinct texts; bytes that are not UTF-8 are lone surrogates."""
        return json.loads((self.folder / "texts.json").read_text())

    def column(self, key: str, kind: str) -> np.ndarray:
        """A feature's column; `key` as in features.json. InputError where the data have no such `kind`."""
        feature = self.tree["features"].get(key)
        if feature is None or feature["kind"] != kind:
            known = sorted(name for name, other in self.tree["features"].items() if other["kind"] == kind)
            reason = self.tree["left_out"].get(key)
            raise InputError(
                f"{self.directory.path}/features.json: no {kind} {key!r}"
                + (f" in the index ({reason})" if reason else f"; it has {known}")
                + f". Is this really {self.directory.name} {self.directory.version}?"
            )
        return self._columns[key]

    @functools.cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        return {key: load_array(self.folder / feature["file"]) for key, feature in self.tree["features"].items()}

    def check(self) -> None:
        """Raises ValueError, KeyError or OSError where the sidecar itself is damaged."""
        texts, rows = self.texts, {True: self.num_steps, False: self.num_episodes}
        if self.episodes.shape != (self.num_episodes, 5):
            raise ValueError("episodes.npy has another shape than index.json says")
        sizes = np.array([shard["bytes"] for shard in self.tree["shards"]], np.int64)
        steps_shard = np.repeat(self.episodes[:, 0], self.episodes[:, 4])
        if len(steps_shard) != self.num_steps:
            raise ValueError("episodes.npy has another number of steps than index.json says")
        for key, feature in self.tree["features"].items():
            column, in_steps = self._columns[key], key.startswith(STEPS)
            if len(column) != rows[in_steps]:
                raise ValueError(f"{feature['file']} has {len(column)} rows, {rows[in_steps]} expected")
            shard = steps_shard if in_steps else self.episodes[:, 0]
            if feature["kind"] in ("image", "array") and np.any((column < 0).any(1) | (column.sum(1) > sizes[shard])):
                raise ValueError(f"{feature['file']} points outside its shard")
            if feature["kind"] == "text" and np.any((column < 0) | (column >= len(texts))):
                raise ValueError(f"{feature['file']} points outside texts.json")


def open_index(directory: DatasetDirectory, split: str, cache: Path, *, jobs: int = 1) -> Index:
    """A valid sidecar: the one beside the data, the cached one, or one built now."""
    return find_or_build(
        lambda: find_index(directory, split, cache), lambda: _build(directory, split, cache, jobs=jobs)
    )


def find_index(directory: DatasetDirectory, split: str, cache: Path) -> Index | None:
    """A valid sidecar, beside the data or in the cache; None where there is none."""
    shards = directory.shards(split)
    home = split_cache(directory, split, cache)
    beside = [directory.path / "index" / split] if isinstance(directory.path, Path) else []
    for folder in (*beside, home / "index"):
        if (folder / "index.json").is_file():
            try:
                index = _read(folder, directory, split)
                _check_shards(index, shards, home / "stamps.json")
                index.check()
                return index
            except (ValueError, KeyError, TypeError, OSError) as error:
                if isinstance(error, InputError):
                    raise
                LOG.warning("%s: not used and built again: %s", folder, error)
    return None


def _build(directory: DatasetDirectory, split: str, cache: Path, *, jobs: int) -> None:
    shards, home = directory.shards(split), split_cache(directory, split, cache)
    stamps = stamps_of(shards)
    work = index_work(directory, split, stamps, home / "parts")
    with made(work, jobs=jobs if _is_large(shards) else 1), new_folder(home / "index") as temporary:
        write_sidecar(temporary, directory, split, work)
    _write_stamps(home / "stamps.json", shards, _read(home / "index", directory, split), stamps)


def split_cache(directory: DatasetDirectory, split: str, cache: Path) -> Path:
    """Where everything derived from a split lies."""
    for part in (directory.name, directory.version, split):
        if Path(part).name != part:
            raise InputError(f"{directory.path}/dataset_info.json: {part!r} is not a plain name")
    return cache / directory.name / directory.version / split


def _read(folder: Path, directory: DatasetDirectory, split: str) -> Index:
    content = (folder / "index.json").read_bytes()
    tree = json.loads(content)
    if tree["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema_version is {tree['schema_version']!r}, this version reads {SCHEMA_VERSION}")
    found = (tree["dataset"], tree["version"], tree["split"])
    if found != (expected := (directory.name, directory.version, split)):
        raise ValueError(f"it is of {found}, not {expected}")
    return Index(folder, directory, split, tree, hashlib.sha256(content).hexdigest())


def _check_shards(index: Index, shards: tuple[Shard, ...], stamps_path: Path) -> None:
    """Raises ValueError where the shards are not those that were indexed, InputError where one is gone."""
    recorded = [(shard["file"], shard["records"]) for shard in index.tree["shards"]]
    if recorded != [(shard.path.name, shard.num_records) for shard in shards]:
        raise ValueError("dataset_info.json lists other shards")
    if index.tree["declared"] != declared_digest(index.directory):
        raise ValueError("features.json declares other features")
    known: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(stamps_path.read_text())
    stamps, is_new = stamps_of(shards), False
    for shard, entry, now in zip(shards, index.tree["shards"], stamps):
        if now.num_bytes != entry["bytes"]:
            raise ValueError(f"{shard.path.name} has {now.num_bytes} bytes, it had {entry['bytes']}")
        if known.get(address(shard.path)) != [*now, entry["digest"]]:
            is_new = True
            if content_digest(shard.path) != entry["digest"]:
                raise ValueError(f"{shard.path.name} has changed")
    if is_new:
        _write_stamps(stamps_path, shards, index, stamps)


def stamps_of(shards: tuple[Shard, ...]) -> list[Stamp]:
    """InputError where a shard is gone."""

    def ask(shard: Shard) -> Stamp:
        try:
            return stamp(shard.path)
        except FileNotFoundError as error:
            raise InputError(f"{shard.path}: missing, though dataset_info.json lists it; fetch it") from error

    if not any(isinstance(shard.path, RemotePath) for shard in shards):
        return [ask(shard) for shard in shards]
    with ThreadPoolExecutor(min(len(shards), MAX_REQUESTS)) as threads:
        stamps = list(threads.map(ask, shards))
    if unmarked := sum(not now.version for now in stamps):
        LOG.warning(
            "%s: %d shards have neither etag, time nor checksum; a change of equal size passes unseen",
            *(shards[0].path, unmarked),
        )
    return stamps


def _write_stamps(path: Path, shards: tuple[Shard, ...], index: Index, stamps: list[Stamp]) -> None:
    entries = zip(shards, stamps, index.tree["shards"])
    write_json(path, {address(shard.path): [*now, entry["digest"]] for shard, now, entry in entries})


def _is_large(shards: tuple[Shard, ...]) -> bool:
    num_bytes = 0
    for shard in shards:
        if isinstance(shard.path, RemotePath) and shard.path.is_of_this_process:
            return False
        with contextlib.suppress(FileNotFoundError):
            num_bytes += stamp(shard.path).num_bytes
        if num_bytes > SMALL_SPLIT_BYTES:
            return True
    return False
