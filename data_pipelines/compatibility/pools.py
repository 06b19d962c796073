"""Some trajectories of a stream, held in memory as a `Source`: what assembles batches reads them as it reads files.

Axes: step (all episodes of the pool in order).
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.compatibility.trajectories import StreamedEpisode
from data_pipelines.discovery import Dataset
from data_pipelines.index.dataset_directory import DatasetDirectory
from data_pipelines.index.shard_index import STEPS
from data_pipelines.index.sidecar import Index
from data_pipelines.pools import Visit
from data_pipelines.source import Source
from data_pipelines.standardization import standardize_episodes
from data_pipelines.table import Table
from data_pipelines.transforms.decode import Decode
from data_pipelines.transforms.no_op import NoOps, can_tell
from vla_jax.types import DataRequirements, InputError

STREAM = Path("stream")
"""In the place of a shard, in quarantine.jsonl."""


@dataclasses.dataclass(frozen=True)
class PoolIndex(Index):
    held: list[StreamedEpisode]

    @functools.cached_property
    def shards(self) -> list[Any]:
        return [STREAM]

    @functools.cached_property
    def episodes(self) -> np.ndarray:
        num_steps = np.array([episode.num_steps for episode in self.held], np.int64)
        none = np.zeros_like(num_steps)
        return np.column_stack([none, none, none, np.cumsum(num_steps) - num_steps, num_steps])

    @functools.cached_property
    def texts(self) -> list[str]:
        return list(self._text_places)

    @functools.cached_property
    def _text_places(self) -> dict[str, int]:
        every = (text for episode in self.held for texts in episode.texts.values() for text in texts)
        return {text: place for place, text in enumerate(dict.fromkeys(every))}

    @functools.cached_property
    def pictures(self) -> list[Any]:
        return [picture for key in self.held[0].pictures for episode in self.held for picture in episode.pictures[key]]

    @functools.cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        """Of a picture its place in `pictures`, and its length: bytes, or rows of a decoded one."""
        columns = {}
        spans = np.array([[place, len(picture)] for place, picture in enumerate(self.pictures)], np.int64)
        for number, key in enumerate(self.held[0].pictures):
            columns[STEPS + key] = spans[number * self.num_steps : (number + 1) * self.num_steps]
        for key in self.held[0].texts:
            given = [self._text_places[text] for episode in self.held for text in episode.texts[key]]
            columns[STEPS + key] = np.array(given, np.int32)
        return columns


@dataclasses.dataclass(frozen=True)
class PoolReader:
    pictures: list[Any]

    def visit(self, visits: Sequence[Visit]) -> None:
        pass

    def read(self, row: int, offset: int, length: int) -> Any:
        return self.pictures[offset]

    def close(self) -> None:
        pass


class DecodeUnlessDecoded(Decode):
    def __call__(self, data: Any, out: np.ndarray) -> np.ndarray:
        return super().__call__(data, out) if isinstance(data, bytes) else data


@dataclasses.dataclass(frozen=True)
class PoolSource(Source):
    first_episode: int = 0
    """Its place in the stream."""

    def decoder(self, smallest: tuple[int, int] | None) -> Decode:
        return DecodeUnlessDecoded(smallest)

    def episode_step(self, row: int) -> tuple[int, int]:
        episode, step = super().episode_step(row)
        return self.first_episode + episode, step


def pool_source(
    dataset: Dataset, held: list[StreamedEpisode], first_episode: int, requirements: DataRequirements, split: str
) -> PoolSource:
    """InputError where the trajectories do not give what the policy's action space needs."""
    num_steps = np.array([episode.num_steps for episode in held], np.int64)
    numbers = {key: np.concatenate([episode.numbers[key] for episode in held]) for key in dataset.spec.numbers}
    where = f"the stream of {dataset.spec.name} from its trajectory {first_episode} on:"
    columns = standardize_episodes(dataset.standardize, numbers, num_steps, where)
    kinds = dict.fromkeys(held[0].pictures, "image") | dict.fromkeys(held[0].texts, "text")
    tree = {
        "num_steps": int(num_steps.sum()),
        "num_episodes": len(held),
        "features": {STEPS + key: {"kind": kind} for key, kind in kinds.items()},
        "left_out": {},
    }
    directory = DatasetDirectory(STREAM, dataset.spec.name, dataset.spec.version, {}, {})
    index = PoolIndex(STREAM, directory, split, tree, "", held)
    table = Table(columns, "", STREAM, "")
    source = PoolSource(dataset, index, table, requirements, PoolReader(index.pictures), first_episode=first_episode)
    if missing := [key for key in source.form.REQUIRED if key not in columns]:
        raise InputError(
            f"dataset {dataset.spec.name}: it cannot be mapped into the action space "
            f"{requirements.action_space.form!r}, which needs {missing}; `standardize` gives {sorted(columns)}"
        )
    return source


def sampled(source: PoolSource, *, skip_unlabeled: bool, no_op_threshold: float | None) -> PoolSource:
    """The same with the windows left out that the configuration leaves out."""
    if no_op_threshold is not None and not can_tell(source.table.columns):
        raise InputError(f"dataset {source.name}: data.no_op_threshold is set, but it gives neither motions nor poses")
    no_ops = None if no_op_threshold is None else NoOps(no_op_threshold)
    return dataclasses.replace(source, skip_unlabeled=skip_unlabeled, no_ops=no_ops)
