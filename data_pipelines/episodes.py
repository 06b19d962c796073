"""Episodes in order, for evaluation: at every step what a robot would have seen, and what it should then do.

    open_episodes(...) -> Episodes;  for steps in episodes.batches(): ...

Axes: b steps, w window, h horizon, a action.
"""

import dataclasses
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.assembly import Assembler, Sample, statistics_of
from data_pipelines.config import DataConfig, MixtureEntry
from data_pipelines.index.dataset_directory import read_directory
from data_pipelines.source import BadRecordError, Source, open_source
from vla_jax.types import DataRequirements, Observation, Tokenize

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class EpisodeSteps:
    observation: Observation
    """Windows that end at the step, padded on the anchor's side; normalised; never cropped. Goals: the last step."""
    action: np.ndarray
    """float32[b, h, a], not normalised: what `action_spaces` undoes from the step's pose."""
    action_mask: np.ndarray
    """bool[b, h, a]; all False at a step without targets (a last step, where targets are next poses)."""
    ids: np.ndarray
    """int32[b, 2]: episode, step."""


def open_episodes(
    directory: Path,
    data: DataConfig,
    requirements: DataRequirements,
    tokenize: Tokenize,
    *,
    statistics: dict[str, Any],
    batch_size: int,
) -> "Episodes":
    """Args: directory: the dataset's, NAME/VERSION. data: the run's, with `cache` and `split` as they are wanted here;
    its mixture says whose standardisation the dataset was trained with. statistics: a checkpoint's, by dataset name,
    to normalise proprio with. InputError on whatever is wrong, also where the statistics do not know the dataset.
    """
    assert data.cache is not None
    layout = read_directory(Path(directory))
    statistics_of(layout.name, statistics)
    trained = next((entry for entry in data.mixture if entry.name == layout.name), MixtureEntry(name=layout.name))
    source = open_source(
        layout,
        requirements,
        split=data.split,
        cache=Path(data.cache),
        jobs=os.cpu_count() or 1,
        standardization=trained.standardization,
    )
    return Episodes(Assembler(requirements, tokenize, [source], statistics), batch_size)


@dataclasses.dataclass
class Episodes:
    assembler: Assembler
    batch_size: int
    num_skipped: int = 0
    """Steps left out, and logged, so far because a record is bad."""

    @property
    def source(self) -> Source:
        return self.assembler.sources[0]

    @property
    def num_episodes(self) -> int:
        return self.source.index.num_episodes

    @property
    def num_steps(self) -> int:
        return self.source.index.num_steps

    def batches(self) -> Iterator[EpisodeSteps]:
        """Every step of every episode, in order; the last batch may be smaller."""
        return self._batches(range(self.num_steps))

    def first_steps(self, num_episodes: int) -> Iterator[EpisodeSteps]:
        """The first step of each of the first episodes."""
        rows: list[int] = []
        row = 0
        while len(rows) < num_episodes and row < self.num_steps:
            rows.append(row)
            row = int(self.source.trajectories.bounds(np.array([row]))[1][0]) + 1
        return self._batches(rows)

    def _batches(self, rows: Sequence[int]) -> Iterator[EpisodeSteps]:
        self.num_skipped = 0
        for start in range(0, len(rows), self.batch_size):
            part = rows[start : start + self.batch_size]
            images = self.assembler.empty_images(len(part))
            samples: list[Sample] = []
            for row in part:
                try:
                    samples.append(self._read(row, {slot: out[len(samples)] for slot, out in images.items()}))
                except BadRecordError as bad:
                    self.num_skipped += 1
                    episode, step = self.source.episode_step(row)
                    LOG.warning("%s episode %d step %d left out: %s", self.source.name, episode, step, bad.reason)
            if samples:
                yield self._steps(samples, {slot: out[: len(samples)] for slot, out in images.items()})

    def _read(self, row: int, images: dict[str, np.ndarray]) -> Sample:
        here = np.array([row])
        rows, mask = self.source.window.history(here, self.source.trajectories.bounds(here)[0])
        self.source.check_numbers(rows[0])
        goal = int(self.source.trajectories.bounds(here)[1][0]) if self.assembler.requirements.goals else None
        sample = Sample(0, row, rows[0], mask[0], text=self.source.text(row, None), goal=goal)
        self.assembler.read_images(sample, images)
        return sample

    def _steps(self, samples: list[Sample], images: dict[str, np.ndarray]) -> EpisodeSteps:
        batch = self.assembler.batch(samples, images)
        _, target, valid = self.source.numbers(np.array([sample.row for sample in samples]))
        mask = valid[..., None] & self.source.available
        return EpisodeSteps(batch.observation, target, mask, np.asarray(batch.sample_ids)[:, 1:])
