"""Training batches: numpy on the host, random access by step, the same whatever came before.

    open_pipeline(...) -> Pipeline
    Pipeline.batches(start_step, rows) -> Batches, a closable iterator of Batch
    Pipeline.sample_ids(step), .statistics, .num_replaced

A batch depends on (configuration, data, seed, step) alone; a host that reads `rows` gets those rows of the same global
batch. Pictures are decoded straight into the batch's arrays; numbers, at every step of every window, are gathered and
turned into targets one dataset at a time.

Axes: b batch (this host's rows), w window, h horizon, a action, p proprio, t text tokens.
"""

import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import grain
import numpy as np

from data_pipelines.assembly import Assembler, Sample, statistics_of
from data_pipelines.config import DataConfig, MixtureEntry
from data_pipelines.discovery import find_dataset
from data_pipelines.index.dataset_directory import read_directory
from data_pipelines.mixture import Draw, Mixture, Planned, open_mixture, pool_bytes
from data_pipelines.pools import Visit
from data_pipelines.quarantine import Quarantine
from data_pipelines.reading import EpisodeReader, one_by_one, together
from data_pipelines.source import BadRecordError, Source, open_source
from data_pipelines.spec import NO_VERSION
from data_pipelines.statistics import bound, statistics_trees
from data_pipelines.storage import RemotePath, locate
from data_pipelines.transforms.no_op import NoOps
from data_pipelines.variation import Variation
from vla_jax.types import Batch, DataRequirements, InputError, Tokenize

MAX_ATTEMPTS = 100
NUM_STEPS = 1 << 40
"""More than any run."""
LOG = logging.getLogger(__name__)


def open_pipeline(
    data: DataConfig,
    requirements: DataRequirements,
    tokenize: Tokenize,
    *,
    seed: int,
    batch_size: int,
    cache: Path,
    quarantine: Path | None,
    statistics: dict[str, Any] | None = None,
) -> "Pipeline":
    """Finds or builds index, tables and statistics of every dataset under `cache`; InputError on whatever is wrong.

    `batch_size` is global, over all hosts. `quarantine` lists bad records (None: they are only logged). `statistics`
    replaces the datasets' own, by dataset name, as in dataset_statistics.json.
    """
    if seed < 0:
        raise InputError(f"seed={seed}: a number from 0 on is expected")
    if not data.mixture:
        raise InputError("data.mixture is empty: name at least one dataset")
    names = [entry.name for entry in data.mixture]
    if len(set(names)) != len(names):
        raise InputError(f"data.mixture: {names} names a dataset twice; add its weights up")
    sources = [_open_entry(entry, data, requirements, cache) for entry in data.mixture]
    if statistics is None:
        jobs = os.cpu_count() or 1
        by_robot = sorted(sources, key=lambda source: (source.dataset.spec.robot, source.name))
        found = (source.statistics(Path(cache), jobs=jobs) for source in by_robot)
        statistics = statistics_trees(found, data.statistics_per)
    variation = Variation(data, requirements)
    statistics = {
        source.name: bound(statistics_of(source.name, statistics), variation.files | source.files) for source in sources
    }
    mixture = open_mixture(data, sources, seed, batch_size)
    for number, (source, pool) in enumerate(zip(sources, mixture.pools)):
        reader = EpisodeReader(source.index, pool, pool_bytes(data, mixture.weights[number]))
        sources[number] = dataclasses.replace(source, reader=reader)
    requests_overlap = data.access == "frame" and isinstance(locate(data.root), RemotePath)
    return Pipeline(
        data=data,
        batch_size=batch_size,
        assembler=Assembler(requirements, tokenize, sources, statistics),
        mixture=mixture,
        variation=variation,
        read_all=together if requests_overlap else one_by_one,
        quarantine=Quarantine(quarantine, data.split, data.max_bad_share),
    )


def _open_entry(entry: MixtureEntry, data: DataConfig, requirements: DataRequirements, cache: Path) -> Source:
    version = entry.version or find_dataset(entry.name).spec.version
    try:
        directory = read_directory(locate(data.root) / entry.name / version)
    except InputError as error:
        if version != NO_VERSION or entry.version:
            raise
        raise InputError(
            f"data.mixture: {entry.name}: its version is not published; give MixtureEntry.version, the name of its "
            f"folder in {data.root}/{entry.name} ({error})"
        ) from error
    if (directory.name, directory.version) != (entry.name, version):
        raise InputError(
            f"{directory.path}/dataset_info.json: it is {directory.name} {directory.version}, "
            f"the folder and data.mixture say {entry.name} {version}"
        )
    jobs = os.cpu_count() or 1
    source = open_source(
        directory,
        requirements,
        split=data.split,
        cache=Path(cache),
        jobs=jobs,
        skip_unlabeled=data.skip_unlabeled,
        standardization=entry.standardization,
    )
    return source if data.no_op_threshold is None else source.without_no_ops(NoOps(data.no_op_threshold))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
    data: DataConfig
    batch_size: int
    assembler: Assembler
    mixture: Mixture
    variation: Variation
    read_all: Callable[[Callable[[int], Sample], Iterable[int]], list[Sample]]
    """Applies a function to the rows of a batch."""
    quarantine: Quarantine

    @property
    def sources(self) -> list[Source]:
        return self.assembler.sources

    @property
    def statistics(self) -> dict[str, Any]:
        """By dataset name, as dataset_statistics.json."""
        return self.assembler.statistics

    @property
    def num_replaced(self) -> int:
        """Samples whose record was bad, since the start of this process."""
        return self.quarantine.num_replaced

    def batches(self, start_step: int, rows: slice | None = None) -> "Batches":
        """Batches from `start_step` on; `rows`: this host's part of each global batch."""
        rows = rows or slice(None)
        drawn = start_step * len(range(self.batch_size)[rows])
        self.quarantine.resume(start_step * self.batch_size, drawn)
        reader = grain.MapDataset.source(_Steps(self, rows))
        options = grain.ReadOptions(num_threads=self.data.num_threads, prefetch_buffer_size=self.data.prefetch)
        closing = [source.reader.close for source in self.sources]
        return Batches(iter(reader[start_step:].to_iter_dataset(options)), closing)

    def batch(self, step: int, rows: slice | None = None) -> Batch:
        """One batch, read now."""
        return self.assembler.batch(*self.read(step, rows))

    def read(self, step: int, rows: slice | None = None) -> tuple[list[Sample], dict[str, np.ndarray]]:
        """The windows of a batch as they were chosen, and their pictures as `Assembler.empty_images` lists them."""
        samples = self._samples(step)[rows or slice(None)]
        plans = self.mixture.planned(samples)
        self._visit(plans)
        planned = self._windows(samples, plans)
        images = self.assembler.empty_images(len(samples))

        def read(place: int) -> Sample:
            return self._read_sample(planned[place], {key: out[place] for key, out in images.items()})

        chosen = self.read_all(read, range(len(samples)))
        self.quarantine.count(len(chosen), sum(sample.attempt > 0 for sample in chosen))
        return chosen, images

    def sample_ids(self, step: int) -> np.ndarray:
        """(dataset, episode, step) of each row of a global batch, int32[b, 3], without decoding.

        The same as `Batch.sample_ids` once the bad pictures in that batch are known, that is after it was read in this
        run, here or before a resume; until then a sample with an unknown bad picture is given as it was planned.
        """
        samples = self._samples(step)
        planned = self._windows(samples, self.mixture.planned(samples))
        return np.array([self._plan(sample) for sample in planned], np.int32)

    def _visit(self, plans: list[Planned]) -> None:
        visits: dict[int, dict[Visit, None]] = {}
        for plan in plans:
            if plan.visit is not None:
                visits.setdefault(plan.dataset, {})[plan.visit] = None
        for dataset, groups in visits.items():
            self.sources[dataset].reader.visit(list(groups))

    def _samples(self, step: int) -> np.ndarray:
        return np.arange(step * self.batch_size, (step + 1) * self.batch_size)

    def _windows(self, samples: np.ndarray, plans: list[Planned], attempt: int = 0) -> list[Sample]:
        dataset, window = np.array([plan[:2] for plan in plans]).T
        row = np.empty(len(plans), np.int64)
        rows = np.empty((len(plans), self.assembler.requirements.window), np.int64)
        mask = np.empty(rows.shape, bool)
        for number in np.unique(dataset):
            here = np.flatnonzero(dataset == number)
            row[here], rows[here], mask[here] = self.sources[number].windows(window[here])
        return [
            Sample(plan.dataset, int(row[n]), rows[n], mask[n], attempt, sample)
            for n, (plan, sample) in enumerate(zip(plans, samples.tolist()))
        ]

    def _candidates(self, planned: Sample) -> Iterator[Sample]:
        """The planned window, then its replacements."""
        yield planned
        dataset, sample = planned.dataset, planned.index
        for attempt in range(1, MAX_ATTEMPTS):
            plan = Planned(dataset, self.mixture.replacement(dataset, sample, attempt))
            yield from self._windows(np.array([sample]), [plan], attempt)
        raise InputError(
            f"dataset {self.sources[dataset].name}: {MAX_ATTEMPTS} windows in a row were bad (sample {sample}); "
            f"see {self.quarantine.path or 'the log'}"
        )

    def _read_sample(self, planned: Sample, images: dict[str, np.ndarray]) -> Sample:
        geometries = self.variation.geometries(functools.partial(self.mixture.generator, Draw.CROP, planned.index))
        for candidate in self._candidates(planned):
            source = self.sources[candidate.dataset]
            try:
                chosen = dataclasses.replace(self._checked(candidate), geometries=geometries)
                self.assembler.read_images(chosen, images)
                return chosen
            except BadRecordError as bad:
                self.quarantine.record(source, bad, planned.index, candidate.attempt)
        raise AssertionError("candidates end with an error")

    def _plan(self, planned: Sample) -> tuple[int, int, int]:
        for candidate in self._candidates(planned):
            source = self.sources[candidate.dataset]
            try:
                chosen = self._checked(candidate)
            except BadRecordError:
                continue
            if not self.quarantine.has_bad_picture(source, self.assembler.picture_rows(chosen)):
                return candidate.dataset, *source.episode_step(candidate.row)
        raise AssertionError("candidates end with an error")

    def _checked(self, candidate: Sample) -> Sample:
        """With its instruction and goal; BadRecordError where it or the numbers cannot be used."""
        source = self.sources[candidate.dataset]
        source.check_numbers(candidate.rows)
        key = (candidate.index, candidate.attempt)
        text = source.text(candidate.row, functools.partial(self.mixture.generator, Draw.LANGUAGE, *key))
        if not self.variation.tells:
            return dataclasses.replace(candidate, text=text)
        last = int(source.trajectories.bounds(candidate.rows[-1:])[1][0])
        draw = self.mixture.generator(Draw.TASK, *key)
        text, goal = self.variation.task(text, candidate.last_row, last, draw)
        return dataclasses.replace(candidate, text=text, goal=goal)


@dataclasses.dataclass(frozen=True)
class _Steps:
    """Grain's view: one element a step."""

    pipeline: Pipeline
    rows: slice

    def __len__(self) -> int:
        return NUM_STEPS

    def __getitem__(self, step: int) -> Batch:
        return self.pipeline.batch(int(step), self.rows)


class Batches(Iterator[Batch]):
    """Batches prepared ahead by threads; `close`, or a `with` block, stops them."""

    def __init__(self, iterator: Any, closing: list[Callable[[], None]]):
        self._iterator, self._closing = iterator, closing

    def __next__(self) -> Batch:
        return next(self._iterator)

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._iterator.close()
        for close in self._closing:
            close()
