"""Statistics of datasets, kept in the cache: computed a shard at a time, from the table, and merged in order.

They are found again by `key`, a digest of all that they were made from. `made_from` lists it part by part, so that who
meets another key can say what changed.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_pipelines.cache import write_json
from data_pipelines.discovery import Dataset, commanded, find_action_space, source_digests
from data_pipelines.index.sidecar import Index, split_cache
from data_pipelines.parts import Part, PartLostError, StoredPart, Work, find_or_build, made, part_digest, write_part
from data_pipelines.standardization import standardize_episodes
from data_pipelines.summary import Summary, summarize
from data_pipelines.table import SMALL_SPLIT_STEPS, Table, part_name, read_columns
from vla_jax.types import ActionSpace, InputError

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class DatasetStatistics:
    dataset: str
    robot: str
    space: ActionSpace
    summary: Summary
    made_from: dict[str, str]

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.made_from, sort_keys=True).encode()).hexdigest()

    def tree(self) -> dict[str, Any]:
        """The dataset's part of dataset_statistics.json."""
        return self.summary.tree(self.space) | {"key": self.key, "made_from": self.made_from}


def statistics_trees(found: Iterable[DatasetStatistics], per: Literal["dataset", "embodiment"]) -> dict[str, Any]:
    """dataset_statistics.json, by name of the dataset.

    `embodiment`: datasets of the same `robot` share statistics, those of all their steps together.
    Args: found: taken one at a time, so that not all are held; for `embodiment` robot by robot.
    """
    if per == "dataset":
        return {statistics.dataset: statistics.tree() for statistics in found}
    trees: dict[str, Any] = {}
    for _, members in itertools.groupby(found, lambda statistics: statistics.robot):
        trees |= _pooled_trees(members)
    return trees


def _pooled_trees(members: Iterator[DatasetStatistics]) -> dict[str, Any]:
    pool = next(members)
    made_from = {pool.dataset: pool.made_from}
    for member in members:
        pool.summary.merge(member.summary)
        made_from[member.dataset] = member.made_from
    if len(made_from) > 1:
        parts = {f"{name}: {part}": value for name, own in made_from.items() for part, value in own.items()}
        pool = dataclasses.replace(pool, made_from=parts)
    return dict.fromkeys(made_from, pool.tree())


def bound(tree: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
    """A dataset's part of dataset_statistics.json with `files`: digests of what else its samples are made from
    (wordings, boxes), by name, so that a resumed run can tell; without it where there are none.
    """
    return {key: part for key, part in tree.items() if key != "files"} | ({"files": files} if files else {})


def open_statistics(
    dataset: Dataset, index: Index, table: Table, space: ActionSpace, cache: Path, *, jobs: int = 1
) -> DatasetStatistics:
    """From the cache where its key still holds, else computed and cached."""
    check_columns(dataset.spec.name, table.columns, space)
    empty = DatasetStatistics(
        dataset.spec.name, dataset.spec.robot, space, Summary(space), _made_from(dataset, index, space)
    )
    home = split_cache(index.directory, index.split, cache)
    path = home / f"statistics-{empty.key[:16]}.npz"

    def find() -> DatasetStatistics | None:
        try:
            with StoredPart(path) as arrays:
                return dataclasses.replace(empty, summary=Summary.load(arrays, space))
        except PartLostError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                LOG.warning("damaged, computed again: %s", error)
            return None

    def build() -> None:
        work = statistics_work(index, table, space, home / "parts")
        with made(work, jobs=jobs if index.num_steps > SMALL_SPLIT_STEPS else 1):
            summary = Summary(space)
            for part in work.parts():
                summary.merge(Summary.load(part, space))
        _check(summary, f"{index.directory.path}: split {index.split!r}")
        write_json(path.with_suffix(".json"), dataclasses.replace(empty, summary=summary).tree())
        write_part(path, summary.arrays())

    return find_or_build(find, build)


def statistics_work(index: Index, table: Table, space: ActionSpace, parts: Path) -> Work[int]:
    """By number of the shard."""
    units = {part_name(number, shard["digest"]): number for number, shard in enumerate(index.tree["shards"])}
    make = functools.partial(_make_part, index=dataclasses.replace(index), folder=table.folder, space=space)
    return Work(parts / part_folder(table.shard_digest, space), units, make, f"statistics {index.directory.name}")


def part_folder(table_part: str, space: ActionSpace) -> str:
    """Args: table_part: the folder of the parts of the table."""
    return f"statistics-{part_digest(table_part, space, *_code(space).values())}"


def summarize_shard(columns: Part, num_steps: np.ndarray, space: ActionSpace) -> Part:
    return summarize(columns, num_steps, space).arrays()


def _make_part(number: int, index: Index, folder: Path, space: ActionSpace) -> Part:
    rows, num_steps = index.shard_steps(number)
    columns = read_columns(folder, index.num_steps)
    return summarize_shard({key: column[rows] for key, column in columns.items()}, num_steps, space)


def check_columns(dataset: str, columns: Part, space: ActionSpace) -> None:
    if missing := [key for key in find_action_space(space.form).REQUIRED if key not in columns]:
        raise InputError(
            f"dataset {dataset}: it cannot be mapped into the action space {space.form!r}, which needs {missing}; "
            f"it gives {sorted(columns)}"
        )
    commanded(dataset, space, columns)


def _check(summary: Summary, where: str) -> None:
    if summary.num_left_out:
        LOG.warning(
            "%s: statistics: %d of %d steps are not finite and left out", where, summary.num_left_out, summary.num_steps
        )
    if not summary.action.count:
        raise InputError(
            f"{where}: statistics: not one step has a valid, finite target; the split cannot be trained on"
        )


def _made_from(dataset: Dataset, index: Index, space: ActionSpace) -> dict[str, str]:
    """Of the code, only what decides numbers, by file."""
    shards = [shard["digest"] for shard in index.tree["shards"]]
    layout = part_digest(repr(space.dimensions), repr(space.proprio))
    return {
        "version": index.directory.version,
        "shards": f"{len(shards)}, digest {part_digest(*shards)}",
        "features.json": part_digest(index.tree["declared"]),
        "SPEC.numbers": ", ".join(dataset.spec.numbers),
        "standardization": f"{dataset.standardize.__module__}.{dataset.standardize.__name__}",
        "action space": f"{space.form}, horizon {space.horizon}, dimensions {layout}",
        **{path: digest[:16] for path, digest in sorted((dataset.sources | _code(space)).items())},
    }


def _code(space: ActionSpace) -> dict[str, str]:
    modules = (standardize_episodes.__module__, summarize.__module__, f"data_pipelines.action_spaces.{space.form}")
    return {path: digest for module in modules for path, digest in source_digests(module).items()}
