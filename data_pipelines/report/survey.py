"""What a page tells of one dataset. Where a part cannot be made, the page says why in its place.

Axes: step (all episodes in order).
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipelines.discovery import Dataset, find_action_space, find_dataset
from data_pipelines.index.dataset_directory import DatasetDirectory
from data_pipelines.index.shard_index import STEPS
from data_pipelines.index.sidecar import Index, open_index
from data_pipelines.reading import RangeReader
from data_pipelines.report.counts import SplitCount, count_split
from data_pipelines.report.filmstrip import Camera, EpisodeFilm, FilmMaker
from data_pipelines.report.histogram import Histogram, whole_numbers
from data_pipelines.report.language import Language, describe_language
from data_pipelines.report.motion import (
    Motion,
    Numbers,
    describe_grippers,
    describe_motion,
    describe_raw,
    fitting_space,
)
from data_pipelines.source import Source
from data_pipelines.spec import DatasetSpec
from data_pipelines.table import Table, open_table
from data_pipelines.verification.finding import Findings
from data_pipelines.verification.subject import Subject, open_subject
from data_pipelines.verification.verification import verify
from vla_jax.types import ActionSpace, DataRequirements, InputError


@dataclasses.dataclass(frozen=True)
class Settings:
    cache: Path
    jobs: int
    split: str = "train"
    space: ActionSpace | None = None
    """None: one that the dataset fits into."""
    is_verified: bool = True


@dataclasses.dataclass
class Survey:
    path: str
    name: str
    version: str
    split: str
    spec: DatasetSpec | None
    cameras: tuple[Camera, ...]
    splits: tuple[SplitCount, ...] = ()
    lengths: Histogram | None = None
    language: Language | None = None
    motion: Motion | None = None
    grippers: Numbers | None = None
    raw: Numbers | None = None
    film_maker: FilmMaker | None = None
    films: tuple[EpisodeFilm, ...] = ()
    """Empty until it is known how much room there is for them."""
    findings: Findings | None = None
    """None: not looked for."""
    problems: dict[str, str] = dataclasses.field(default_factory=dict)
    """Part of the page -> why it is not there, or not whole."""

    @property
    def count(self) -> SplitCount:
        """Of the split that is shown."""
        return next(count for count in self.splits if count.name == self.split)

    @property
    def seconds(self) -> float | None:
        rate, steps = self.spec.rate_hertz if self.spec else None, self.count.steps
        return steps / rate if rate and steps else None


def survey(directory: DatasetDirectory, settings: Settings) -> Survey:
    """InputError where there is no such split; whatever else is wrong is told in `problems`."""
    directory.shards(settings.split)
    subject = open_subject(directory)
    told = Survey(
        path=str(directory.path),
        name=directory.name,
        version=directory.version,
        split=settings.split,
        spec=subject.spec,
        cameras=_cameras(subject),
    )
    indices: dict[str, Index] = {}
    for split in directory.splits:
        with _told(told, f"index of split {split}"):
            indices[split] = open_index(directory, split, settings.cache, jobs=settings.jobs)
    told.splits = tuple(count_split(directory, s, indices.get(s), subject.spec) for s in directory.splits)
    if settings.is_verified:
        told.findings = verify(directory, jobs=settings.jobs).findings
    if settings.split in indices:
        _tell(told, subject, indices[settings.split], settings)
    return told


@contextlib.contextmanager
def _told(told: Survey, part: str) -> Iterator[None]:
    """An InputError within goes on the page."""
    try:
        yield
    except InputError as error:
        told.problems[part] = str(error)


def _tell(told: Survey, subject: Subject, index: Index, settings: Settings) -> None:
    lengths = np.asarray(index.episodes[:, 4])
    if not lengths.sum():
        told.problems["steps"] = f"split {index.split} has none"
        return
    told.lengths = whole_numbers("episode length", lengths, unit="steps")
    languages = []
    with _told(told, "language"):
        languages = [index.column(key, "text") for key in subject.languages]
        told.language = describe_language(languages, index.texts)
    with _told(told, "numbers as stored"):
        told.raw = describe_raw(subject, index)
    source = None
    with _told(told, "actions"):
        dataset = find_dataset(index.directory.name)
        table = open_table(dataset, index, settings.cache, jobs=settings.jobs)
        told.grippers = describe_grippers(subject, index, table)
        source = _source(dataset, index, table, settings.space or fitting_space(table))
    if source is not None:
        with _told(told, "statistics"):
            told.motion = describe_motion(source, settings.cache, settings.jobs)
    depths = subject.spec.depths if subject.spec else {}
    told.film_maker = FilmMaker(index, told.cameras, languages, source, depths)


def _source(dataset: Dataset, index: Index, table: Table, space: ActionSpace) -> Source:
    """InputError where the dataset does not fit into the action space."""
    required = find_action_space(space.form).REQUIRED
    if missing := [key for key in required if key not in table.columns]:
        raise InputError(
            f"dataset {index.directory.name}: it cannot be mapped into the action space {space.form!r}, which needs "
            f"{missing}; it gives {sorted(table.columns)}"
        )
    needs = DataRequirements(action_space=space, cameras=(), window=1, window_anchor="last", text_length=1)
    return Source(dataset, index, table, needs, RangeReader(index))


def _cameras(subject: Subject) -> tuple[Camera, ...]:
    """Those of the SPEC by slot, then the others that are in the data."""
    slots = {STEPS + key: slot for slot, key in subject.spec.cameras.items()} if subject.spec else {}
    present = [key for key in subject.cameras if key.startswith(STEPS)]
    named = [Camera(slot, key, is_used=True) for key, slot in slots.items() if key in present]
    others = [Camera(key.rpartition("/")[2], key, is_used=not slots) for key in present if key not in slots]
    return tuple(named + others)
