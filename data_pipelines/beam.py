"""The parts of shards made by an Apache Beam pipeline: thousands of shards on Dataflow, Flink or Spark.

The functions of a shard are those that `--jobs` calls. Each worker reads its shards once and leaves their parts in a
place that all see; the process that started the pipeline puts them together as ever. A pipeline that was killed goes on
with the shards that it had not finished. Imported by `--beam` alone: Beam needs an older protobuf than other packages,
and so an environment of its own (requirements-beam.txt).
"""

import contextlib
import dataclasses
import functools
import io
import logging
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import apache_beam
import fsspec
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from data_pipelines.cache import new_file
from data_pipelines.discovery import Dataset
from data_pipelines.index.dataset_directory import DatasetDirectory, Shard
from data_pipelines.index.sidecar import find_index, split_cache, stamps_of
from data_pipelines.index.sidecar_writer import declared_digest, index_work
from data_pipelines.parts import Part, Work, write_part
from data_pipelines.statistics import check_columns, summarize_shard
from data_pipelines.statistics import part_folder as statistics_folder
from data_pipelines.storage import Location, locate
from data_pipelines.table import part_folder as table_folder
from data_pipelines.table import part_name, standardize_shard
from vla_jax.types import ActionSpace, InputError

LOG = logging.getLogger(__name__)
Unit = tuple[int, str, Shard]
"""Number of the shard, name of its part of the index, the shard."""


@dataclasses.dataclass(frozen=True)
class Beam:
    """How pipelines are run."""

    options: list[str]
    """As Beam's runners take them, e.g. `--runner=DataflowRunner`."""
    place: str | None
    """Where workers leave parts: a path or a URL that fsspec writes; None: in the cache, which all then see."""

    def index(self, directory: DatasetDirectory, split: str, cache: Path) -> None:
        """Into the cache: the parts of the index. Nothing where there is a valid one."""
        self._run(_Shards(directory, split, cache, self.place), ())

    def summarize(
        self, directory: DatasetDirectory, split: str, cache: Path, dataset: Dataset, space: ActionSpace
    ) -> None:
        """Into the cache: the parts of index, table and statistics.

        Nothing where there is a valid index: from it the rest is made faster than the shards are read.
        """
        shards = _Shards(directory, split, cache, self.place)
        table = table_folder(dataset, declared_digest(directory))
        standardize = _Standardize(shards.place / table, dataset)
        summarize = _Summarize(shards.place / statistics_folder(table, space), dataset.spec.name, space)
        self._run(shards, (standardize, summarize))

    def _run(self, shards: "_Shards", further: "tuple[_Standardize, _Summarize] | tuple[()]") -> None:
        if find_index(shards.directory, shards.split, shards.cache) is not None:
            LOG.info("%s: split %s has an index; no pipeline is run", shards.directory.path, shards.split)
            return
        logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)  # it prints what is raised below
        try:
            with apache_beam.Pipeline(options=PipelineOptions(self.options)) as pipeline:
                step = pipeline | "shards" >> apache_beam.Create(shards.units()) | apache_beam.Reshuffle()
                for work in (shards.index(), *further):
                    step = step | type(work).__name__.strip("_").lower() >> apache_beam.Map(work)
        except Exception as error:  # of whatever kind the runner makes of a worker's
            message = str(error) if isinstance(error, InputError) else _input_error(str(error))
            if message is None:
                raise
            raise InputError(message.partition(" [while running")[0]) from error
        shards.fetch()


@dataclasses.dataclass(frozen=True)
class _Shards:
    """Of a split, as the process knows them that starts the pipeline."""

    directory: DatasetDirectory
    split: str
    cache: Path
    given_place: str | None

    @property
    def home(self) -> Path:
        return split_cache(self.directory, self.split, self.cache) / "parts"

    @property
    def place(self) -> Location:
        if self.given_place is None:
            return self.home.absolute()
        place = locate(self.given_place)
        place = place.absolute() if isinstance(place, Path) else place
        return place / self.directory.name / self.directory.version / self.split

    @functools.cached_property
    def _work(self) -> Work[Shard]:
        return index_work(self.directory, self.split, stamps_of(self.directory.shards(self.split)), self.home)

    def units(self) -> list[Unit]:
        return [(number, name, shard) for number, (name, shard) in enumerate(self._work.units.items())]

    def index(self) -> "_Index":
        return _Index(self.place / self._work.folder.name, self._work.make)

    def fetch(self) -> None:
        """The parts into the cache, where they were left elsewhere; they are removed there."""
        if self.given_place is None:
            return
        store, root = fsspec.url_to_fs(str(self.place))
        for path in store.glob(f"{root}/*/*.npz"):
            kind, name = path.split("/")[-2:]
            with new_file(self.home / kind / name) as stream:
                stream.write(store.cat_file(path))
        store.rm(root, recursive=True)


@dataclasses.dataclass(frozen=True)
class _Index:
    folder: Location
    make: Callable[[Shard], Part]

    def __call__(self, unit: Unit) -> tuple[str, str, Part]:
        """Name of the further parts of the shard, where it lies, its index."""
        number, name, shard = unit
        part = _part(self.folder / f"{name}.npz", lambda: self.make(shard))
        return part_name(number, str(part["digest"])), str(shard.path), part


@dataclasses.dataclass(frozen=True)
class _Standardize:
    folder: Location
    dataset: Dataset

    def __call__(self, indexed: tuple[str, str, Part]) -> tuple[str, np.ndarray, Part]:
        name, where, index = indexed
        columns = {key.removeprefix("columns/"): index[key] for key in index if key.startswith("columns/")}
        make = functools.partial(standardize_shard, self.dataset, columns, index["num_steps"], where)
        return name, index["num_steps"], _part(self.folder / f"{name}.npz", make)


@dataclasses.dataclass(frozen=True)
class _Summarize:
    folder: Location
    dataset: str
    space: ActionSpace

    def __call__(self, standardized: tuple[str, np.ndarray, Part]) -> None:
        name, num_steps, columns = standardized
        if columns:
            check_columns(self.dataset, columns, self.space)
        _part(self.folder / f"{name}.npz", lambda: summarize_shard(columns, num_steps, self.space))


def _input_error(text: str) -> str | None:
    """The message of an InputError that a worker's traceback ends with."""
    found = re.search(r"InputError: (.+)", text)
    return found.group(1) if found else None


def _part(path: Location, make: Callable[[], Part]) -> Part:
    """As it lies there, or made now and left there."""
    with contextlib.suppress(FileNotFoundError):
        content = io.BytesIO(path.read_bytes())
        if zipfile.is_zipfile(content):
            with np.load(content, allow_pickle=False) as found:
                return dict(found)
    part = make()
    if isinstance(path, Path):
        write_part(path, part)
    else:
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **part)
        store, target = fsspec.url_to_fs(str(path))
        store.pipe_file(target, content.getvalue())  # an object is there whole or not at all
    return part
