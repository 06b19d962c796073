"""The standardised low-dimensional table of a split: every column of `schema.py` that the dataset gives, on disk.

Axes: step (all episodes in order). Cached in CACHE/NAME/VERSION/SPLIT/table-DIGEST, keyed by the index, the SPEC and
the source of `standardize` with its helpers, so that an edit of either never meets an old table.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data_pipelines.cache import load_array, new_folder
from data_pipelines.discovery import Dataset, source_digest
from data_pipelines.index.shard_index import STEPS
from data_pipelines.index.sidecar import Index, split_cache
from data_pipelines.schema import COLUMNS, WRITTEN_BY_TABLE, Trajectory
from vla_jax.types import InputError

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Table:
    columns: Trajectory
    digest: str


def open_table(dataset: Dataset, index: Index, cache: Path) -> Table:
    parts = (index.digest, repr(dataset.spec), dataset.source_digest, source_digest(__name__))
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    folder = split_cache(index.directory, index.split, cache) / f"table-{digest[:16]}"
    if folder.is_dir():
        with contextlib.suppress(ValueError, OSError, KeyError):
            return Table(_read(folder, index), digest)
        LOG.warning("%s: damaged, built again", folder)
    with new_folder(folder) as temporary:
        columns = _standardize_all(dataset, index)
        for key, column in columns.items():
            np.save(temporary / f"{key}.npy", column)
        (temporary / "columns.json").write_text(json.dumps(sorted(columns)))
    return Table(_read(folder, index), digest)


def _read(folder: Path, index: Index) -> Trajectory:
    columns = {key: load_array(folder / f"{key}.npy") for key in json.loads((folder / "columns.json").read_text())}
    for key, column in columns.items():
        if not COLUMNS[key].fits(column.shape, index.num_steps) or column.dtype != COLUMNS[key].dtype:
            raise ValueError(f"{key} has another shape or dtype")
    return columns


def _standardize_all(dataset: Dataset, index: Index) -> Trajectory:
    numbers = {key: index.column(STEPS + key, "number") for key in dataset.spec.numbers}
    parts: dict[str, list[np.ndarray]] = {}
    for episode, (first, end) in enumerate(zip(index.first_step[:-1], index.first_step[1:])):
        if first == end:
            continue
        raw = {key: np.asarray(column[first:end]) for key, column in numbers.items()}
        for key, column in _standardize(
            dataset, raw, f"{index.directory.path}: {index.split} episode {episode}"
        ).items():
            parts.setdefault(key, []).append(column)
    if not parts:
        raise InputError(f"{index.directory.path}: split {index.split!r} has no steps")
    for key, columns in parts.items():
        if (length := sum(map(len, columns))) != index.num_steps:
            raise InputError(f"datasets/{dataset.spec.name}.py: gave {key!r} for {length} of {index.num_steps} steps")
    return {key: np.concatenate(columns) for key, columns in parts.items()}


def _standardize(dataset: Dataset, raw: Trajectory, where: str) -> Trajectory:
    length = len(next(iter(raw.values())))
    with np.errstate(invalid="ignore"):
        given = dataset.standardize(raw)
    trajectory, raw_finite = {}, _finite(raw.values(), length)
    for key, column in given.items():
        expected = COLUMNS.get(key)
        if expected is None or key in WRITTEN_BY_TABLE or not expected.fits(np.shape(column), length):
            raise InputError(
                f"datasets/{dataset.spec.name}.py: standardize gave {key!r} of shape {np.shape(column)} for {where} "
                f"of {length} steps; schema.py has {sorted(COLUMNS)}"
            )
        trajectory[key] = np.asarray(column, expected.dtype)
    finite = raw_finite & _finite(trajectory.values(), length)
    return trajectory | {"finite": finite, "raw_finite": raw_finite}


def _finite(columns: Iterable[np.ndarray], length: int) -> np.ndarray:
    return np.all([np.isfinite(column).reshape(length, -1).all(1) for column in columns], axis=0)
