"""Training batches from a tf.data.Dataset or a dlimp DLataset of trajectories, for those who keep their own transforms.

    dataset = rlds_trajectories(Path("DATA/bridge_dataset/1.0.0"), "train").traj_map(my_transform)
    stream = open_stream(Trajectories(dataset, find_dataset("bridge_dataset")), DataConfig(root=""), requirements,
                         tokenize, seed=0, batch_size=256)
    Training(program, run, stream, preemption).run(...)

The batches are made by `pipeline.py` itself, with its windows, masks, normalisation, crops, goals, replacement of bad
pictures and quarantine. What a stream cannot give: random access. Windows are mixed within a pool of trajectories
(`data.pool_episodes`, a third of `data.pool_bytes`); a resume reads the stream again up to its step, without decoding
what the transform left encoded; every host reads all of it. A batch is the same function of (seed, step) only if the
dataset gives the same elements in the same order: elements are asked for in order, whatever the dataset's options say,
but a `shuffle` without a seed is beyond reach. Boxes are not read. Of `data` the mixture, root, access and threads do
not matter; one stream is one dataset.

To keep TensorFlow out of the training process give a `SeparateProcess` (process.py) in the dataset's place.
"""

import dataclasses
import functools
import hashlib
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.assembly import Assembler, statistics_of
from data_pipelines.compatibility.pools import PoolSource, pool_source, sampled
from data_pipelines.compatibility.trajectories import StreamedEpisode, Trajectories
from data_pipelines.config import DataConfig
from data_pipelines.mixture import Mixture, Planned, order_seed
from data_pipelines.pipeline import Batches, Pipeline
from data_pipelines.pools import GROUPS_HELD
from data_pipelines.quarantine import Quarantine
from data_pipelines.reading import one_by_one
from data_pipelines.statistics import bound
from data_pipelines.summary import Summary, summarize
from data_pipelines.variation import Variation
from vla_jax.types import Batch, DataRequirements, InputError, Tokenize

LOG = logging.getLogger(__name__)


def open_stream(
    trajectories: Trajectories,
    data: DataConfig,
    requirements: DataRequirements,
    tokenize: Tokenize,
    *,
    seed: int,
    batch_size: int,
    quarantine: Path | None = None,
    statistics: dict[str, Any] | None = None,
) -> "TrajectoryStream":
    """InputError on whatever is wrong, also with the first trajectories.

    `statistics`: by dataset name, as dataset_statistics.json; None: computed in one pass over the stream.
    """
    name = trajectories.spec.name
    if seed < 0:
        raise InputError(f"seed={seed}: a number from 0 on is expected")
    if requirements.boxes is not None or requirements.sidecars:
        raise InputError(f"dataset {name}: a stream has no sidecars (boxes); use the pipeline on its files")
    stream = TrajectoryStream(
        Pools(trajectories, data, requirements),
        *(tokenize, seed, batch_size, {}, Quarantine(quarantine, data.split, data.max_bad_share)),
    )
    if statistics is None:
        tree = stream.pools.statistics()
    else:
        next(stream.pools.placed())
        tree = statistics_of(name, statistics)
    return dataclasses.replace(stream, statistics={name: bound(tree, Variation(data, requirements).files)})


@dataclasses.dataclass(frozen=True)
class Placed:
    """A pool in the order of all samples."""

    number: int
    first_sample: int
    source: PoolSource

    @property
    def end(self) -> int:
        return self.first_sample + len(self.source.anchors)


@dataclasses.dataclass(frozen=True)
class Pools:
    """The stream, cut into pools of trajectories, over and over."""

    trajectories: Trajectories
    data: DataConfig
    requirements: DataRequirements

    def placed(self) -> Iterator[Placed]:
        """Without end; those without windows are left out, and counted in the log."""
        number = first_sample = 0
        while True:
            before = first_sample
            for source in self.sources():
                if not len(source.anchors):
                    LOG.warning("dataset %s: a pool of trajectories of the stream has no window", source.name)
                    continue
                placed = Placed(number, first_sample, source)
                yield placed
                number, first_sample = number + 1, placed.end
            if first_sample == before:
                raise InputError(
                    f"dataset {self.trajectories.spec.name}: the stream has no window with a valid target; it is "
                    "empty, its trajectories are too short, or none has an instruction"
                )

    def sources(self) -> Iterator[PoolSource]:
        """One pass."""
        first_episode = 0
        for held in self._groups():
            source = pool_source(self.trajectories.dataset, held, first_episode, self.requirements, self.data.split)
            yield sampled(source, skip_unlabeled=self.data.skip_unlabeled, no_op_threshold=self.data.no_op_threshold)
            first_episode += len(held)

    def statistics(self) -> dict[str, Any]:
        """The dataset's part of dataset_statistics.json."""
        name = self.trajectories.spec.name
        if self.trajectories.is_endless:
            raise InputError(
                f"dataset {name}: the stream never ends, so that it has no statistics; leave `.repeat()` out (it is "
                "repeated here) or give `statistics`"
            )
        space = self.requirements.action_space
        summary = Summary(space)
        for source in self.sources():
            summary.merge(summarize(source.table.columns, source.index.episodes[:, 4], space))
        if not summary.action.count:
            raise InputError(f"dataset {name}: statistics: the stream has not one step with a valid, finite target")
        numbers = hashlib.sha256(b"".join(array.tobytes() for array in summary.arrays().values())).hexdigest()
        return summary.tree(space) | {"key": numbers, "made_from": {"stream, standardised": numbers}}

    def _groups(self) -> Iterator[list[StreamedEpisode]]:
        held, num_bytes = list[StreamedEpisode](), 0
        for episode in self.trajectories.episodes(self._cameras):
            is_full = len(held) == self.data.pool_episodes
            if held and (is_full or num_bytes + episode.num_bytes > self.data.pool_bytes // GROUPS_HELD):
                yield held
                held, num_bytes = [], 0
            held.append(episode)
            num_bytes += episode.num_bytes
        if held:
            yield held

    @functools.cached_property
    def _cameras(self) -> list[str]:
        wanted, known = {camera.source for camera in self.requirements.cameras}, self.trajectories.spec.cameras
        if wanted and not wanted & known.keys():
            raise InputError(
                f"dataset {self.trajectories.spec.name}: no camera of {sorted(wanted)}; its SPEC has {sorted(known)}"
            )
        return [key for slot, key in known.items() if slot in wanted]


@dataclasses.dataclass(frozen=True)
class TrajectoryStream:
    """What `training` asks of a pipeline."""

    pools: Pools
    tokenize: Tokenize
    seed: int
    batch_size: int
    statistics: dict[str, Any]
    quarantine: Quarantine

    @property
    def num_replaced(self) -> int:
        return self.quarantine.num_replaced

    def batches(self, start_step: int, rows: slice | None = None) -> Batches:
        """From `start_step` on, which is reached by reading the stream up to there; `rows`: this host's part."""
        rows = rows or slice(None)
        drawn = start_step * len(range(self.batch_size)[rows])
        self.quarantine.resume(start_step * self.batch_size, drawn)
        return Batches(self._batches(start_step, rows), [])

    def _batches(self, start_step: int, rows: slice) -> Iterator[Batch]:
        pools, held = self.pools.placed(), list[Placed]()
        pipeline = None
        for step in itertools.count(start_step):
            first, end = step * self.batch_size, (step + 1) * self.batch_size
            while not held or held[-1].end < end:
                held, pipeline = [pool for pool in held if pool.end > first] + [next(pools)], None
            pipeline = pipeline or self._pipeline(held)
            batch = pipeline.batch(step, rows)
            batch.sample_ids[:, 0] = 0  # it counts datasets, not pools
            yield batch

    def _pipeline(self, held: list[Placed]) -> Pipeline:
        sources = [pool.source for pool in held]
        data, requirements = self.pools.data, self.pools.requirements
        sizes = tuple(len(source.anchors) for source in sources)
        return Pipeline(
            data=data,
            batch_size=self.batch_size,
            assembler=Assembler(requirements, self.tokenize, list(sources), self.statistics),
            mixture=PoolOrder(self.seed, sizes, (1 / len(sizes),) * len(sizes), held=tuple(held)),
            variation=Variation(data, requirements),
            read_all=one_by_one,
            quarantine=self.quarantine,
        )


@dataclasses.dataclass(frozen=True)
class PoolOrder(Mixture):
    """Pool after pool, the windows of each shuffled."""

    held: tuple[Placed, ...] = ()

    def planned(self, samples: np.ndarray) -> list[Planned]:
        return [self._in_pool(sample) for sample in samples.tolist()]

    def _in_pool(self, sample: int) -> Planned:
        place = next(place for place, pool in enumerate(self.held) if pool.first_sample <= sample < pool.end)
        return Planned(place, int(self._orders[place][sample - self.held[place].first_sample]))

    @functools.cached_property
    def _orders(self) -> list[np.ndarray]:
        seed = order_seed(self.seed, 0)
        return [np.random.default_rng((seed, pool.number)).permutation(len(pool.source.anchors)) for pool in self.held]
