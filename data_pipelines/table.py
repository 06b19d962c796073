"""The standardised low-dimensional table of a split: every column of `schema.py` that the dataset gives, on disk.

Axes: step (all episodes in order). Cached in CACHE/NAME/VERSION/SPLIT/table-DIGEST, keyed by the index, the SPEC and
the source of `standardize` with its helpers, so that an edit of either never meets an old table.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
from pathlib import Path

import numpy as np

from data_pipelines.cache import load_array, new_array, new_folder
from data_pipelines.discovery import Dataset, source_digest
from data_pipelines.index.shard_index import STEPS
from data_pipelines.index.sidecar import Index, split_cache
from data_pipelines.parts import Part, Work, find_or_build, made, part_digest
from data_pipelines.schema import COLUMNS, Trajectory
from data_pipelines.standardization import standardize_episodes
from vla_jax.types import InputError

SMALL_SPLIT_STEPS = 500_000
"""Splits below it are standardised and summarised in this process: starting others takes longer."""
LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Table:
    columns: Trajectory
    digest: str
    folder: Path
    shard_digest: str
    """Of what the rows of a shard are made from, beside the shard."""


def open_table(dataset: Dataset, index: Index, cache: Path, *, jobs: int = 1) -> Table:
    parts = (index.digest, repr(dataset.spec), _digest_of_code(dataset), source_digest(__name__))
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    home = split_cache(index.directory, index.split, cache)
    folder = home / f"table-{digest[:16]}"

    def find() -> Table | None:
        if folder.is_dir():
            with contextlib.suppress(ValueError, OSError, KeyError):
                columns = read_columns(folder, index.num_steps)
                return Table(columns, digest, folder, part_folder(dataset, index.tree["declared"]))
            LOG.warning("%s: damaged, built again", folder)
        return None

    def build() -> None:
        work = table_work(dataset, index, home / "parts")
        with made(work, jobs=jobs if index.num_steps > SMALL_SPLIT_STEPS else 1), new_folder(folder) as temporary:
            _write(temporary, work, index)

    return find_or_build(find, build)


def read_columns(folder: Path, num_steps: int) -> Trajectory:
    columns = {key: load_array(folder / f"{key}.npy") for key in json.loads((folder / "columns.json").read_text())}
    for key, column in columns.items():
        if not COLUMNS[key].fits(column.shape, num_steps) or column.dtype != COLUMNS[key].dtype:
            raise ValueError(f"{key} has another shape or dtype")
    return columns


def table_work(dataset: Dataset, index: Index, parts: Path) -> Work[int]:
    """By number of the shard."""
    units = {part_name(number, shard["digest"]): number for number, shard in enumerate(index.tree["shards"])}
    make = functools.partial(_make_part, dataset=dataset, index=dataclasses.replace(index))
    return Work(parts / part_folder(dataset, index.tree["declared"]), units, make, f"standardise {dataset.spec.name}")


def part_folder(dataset: Dataset, declared: str) -> str:
    code = (_digest_of_code(dataset), source_digest(standardize_episodes.__module__))
    return f"table-{part_digest(dataset.spec.numbers, declared, *code)}"


def part_name(number: int, shard_digest: str) -> str:
    return f"{number:05d}-{shard_digest[:16]}"


def standardize_shard(dataset: Dataset, columns: Trajectory, num_steps: np.ndarray, where: str) -> Trajectory:
    """Args: columns: of the index, by key of features.json; num_steps: int64[episode]."""
    numbers = {key: columns[STEPS + key] for key in dataset.spec.numbers}
    return standardize_episodes(dataset.standardize, numbers, num_steps, where)


def _digest_of_code(dataset: Dataset) -> str:
    return f"{dataset.standardize.__name__} {dataset.source_digest}"


def _make_part(number: int, dataset: Dataset, index: Index) -> Part:
    rows, num_steps = index.shard_steps(number)
    keys = [STEPS + key for key in dataset.spec.numbers]
    columns = {key: index.column(key, "number")[rows] for key in keys}
    return standardize_shard(dataset, columns, num_steps, str(index.shards[number]))


def _write(folder: Path, work: Work[int], index: Index) -> None:
    given = [sorted(part) for part in work.parts()]
    keys = next((keys for keys in given if keys), None)
    if keys is None:
        raise InputError(f"{index.directory.path}: split {index.split!r} has no steps")
    for number, other in enumerate(given):
        if other not in (keys, []):
            raise InputError(f"{index.shards[number]}: standardize gave {other}, of other shards {keys}")
    with contextlib.ExitStack() as stack:
        writers = {key: stack.enter_context(new_array(folder / f"{key}.npy", index.num_steps)) for key in keys}
        for part in work.parts():
            for key in part:
                writers[key].append(part[key])
    (folder / "columns.json").write_text(json.dumps(keys))
