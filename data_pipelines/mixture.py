"""The order of samples: a pure function of (seed, sample index).

Each dataset's windows are shuffled anew every epoch and repeated, by Grain (`pools.py` in access mode `episode`); the
datasets take turns by weight. Row r of global batch s is sample s * batch_size + r, whatever the number of hosts.

With lanes (access mode `episode`) row r is of lane r // (batch_size / lanes). Every lane goes through the turns at its
own pace, batch_size / lanes of them a step, and starts where the lane before it is after a step: so a batch is
batch_size turns in a row, as without lanes, and each lane alone keeps the shares too. A dataset that is too small for
so many lanes has fewer; neighbouring lanes then draw from one in turn.

Axes: n samples.
"""

import dataclasses
import enum
import functools
from typing import NamedTuple

import grain
import numpy as np

from data_pipelines.config import DataConfig
from data_pipelines.exposure import shares
from data_pipelines.pools import GROUPS_HELD, EpisodeOrder, Visit
from data_pipelines.source import Source
from vla_jax.types import InputError

FEW_WINDOWS = 4096
SMALLEST_SHARE = 100
"""The datasets take turns by whole numbers, of which this is the least."""


class Draw(enum.IntEnum):
    """What a random number is for: each use has its own stream."""

    ORDER = 0
    REPLACEMENT = 1
    LANGUAGE = 2
    CROP = 3
    TASK = 4


class Planned(NamedTuple):
    dataset: int
    window: int
    visit: Visit | None = None
    """To the episodes that the window is of, in access mode `episode`."""


@dataclasses.dataclass(frozen=True)
class Mixture:
    seed: int
    sizes: tuple[int, ...]
    """Windows of each dataset."""
    weights: tuple[float, ...]
    pools: tuple[EpisodeOrder, ...] = ()
    """Of each dataset, in access mode `episode`."""
    batch_size: int = 1
    lanes: int = 1

    def __getitem__(self, sample: int) -> tuple[int, int]:
        """(dataset, window)."""
        return self.planned(np.array([sample]))[0][:2]

    def planned(self, samples: np.ndarray) -> list[Planned]:
        step, row = np.divmod(samples, self.batch_size)
        lane = row // self._lane_rows
        dataset, place = self._taken(step * self._lane_rows + row)
        if self.pools:
            place = place - self._first_place[lane, dataset]
        return list(map(self._planned, dataset.tolist(), place.tolist(), lane.tolist()))

    def _planned(self, dataset: int, place: int, lane: int) -> Planned:
        """Args: place: among the samples that the lane draws from the dataset."""
        if not self.pools:
            return Planned(dataset, int(self._shuffled[dataset][place]))
        pool = self.pools[dataset]
        sharing = self.lanes // pool.num_lanes
        return Planned(dataset, *pool.drawn(lane // sharing, place * sharing + lane % sharing))

    def _taken(self, turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which dataset has each turn int64[n], and how many it had before int64[n]."""
        before, after = self._counts(turns), self._counts(turns + 1)
        dataset = (after - before).argmax(axis=1)
        return dataset, before[np.arange(len(turns)), dataset]

    def _counts(self, turns: np.ndarray) -> np.ndarray:
        """How many of the first turns are each dataset's, int64[n, dataset]: those of `grain.MapDataset.mix`."""
        scale = SMALLEST_SHARE / min(self.weights)
        shares = [int(weight * scale) for weight in self.weights]
        total, counts = sum(shares), []
        left = turns.astype(np.int64 if int(turns.max()) * total < 1 << 63 else object)
        for share in shares:
            others = left * (total - share) // total
            counts.append(left - others)
            left, total = others, total - share
        return np.stack(counts, axis=1).astype(np.int64)

    @property
    def _lane_rows(self) -> int:
        return self.batch_size // self.lanes

    @functools.cached_property
    def _first_place(self) -> np.ndarray:
        """int64[lane, dataset]: what the lane's turns begin with."""
        return self._counts(np.arange(self.lanes) * self._lane_rows)

    @functools.cached_property
    def _shuffled(self) -> "list[grain.MapDataset | _Permutations]":
        """Windows of each dataset, in access mode `frame`."""
        return [_shuffled(size, order_seed(self.seed, number)) for number, size in enumerate(self.sizes)]

    def replacement(self, dataset: int, sample: int, attempt: int) -> int:
        """A window of the same dataset in place of a bad one; attempt 1, 2, ..."""
        return int(self.generator(Draw.REPLACEMENT, sample, attempt).integers(self.sizes[dataset]))

    def generator(self, draw: Draw, *key: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, draw, *key))))


def order_seed(seed: int, number: int) -> int:
    """Of the dataset's order of windows."""
    return int(np.random.SeedSequence((seed, Draw.ORDER, number)).generate_state(1)[0])


def _shuffled(size: int, seed: int) -> "grain.MapDataset | _Permutations":
    """0..size-1 in an order that is new every epoch, for ever."""
    if size < FEW_WINDOWS:
        return _Permutations(size, seed)
    return grain.MapDataset.range(size).shuffle(seed=seed).repeat()


@dataclasses.dataclass(frozen=True)
class _Permutations:
    """Grain's shuffle walks cycles of a permutation of 2^16 numbers: milliseconds a sample where there are few."""

    size: int
    seed: int

    def __getitem__(self, sample: int) -> int:
        epoch, place = divmod(int(sample), self.size)
        return int(_permutation(self.size, self.seed, epoch)[place])


@functools.lru_cache(maxsize=64)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(size)


def open_mixture(data: DataConfig, sources: list[Source], seed: int, batch_size: int) -> Mixture:
    transitions = [source.index.num_steps for source in sources]
    weights = shares(data.mixture, transitions, weigh_by_size=data.weigh_by_size)
    sizes = tuple(len(source.anchors) for source in sources)
    if data.access == "frame":
        return Mixture(seed, sizes, weights)
    if batch_size % data.lanes:
        raise InputError(
            f"data.lanes={data.lanes}: a batch of {batch_size} rows is no multiple of it; "
            f"set --batch-size to one, or data.lanes to a divisor, best a multiple of the number of hosts"
        )
    pools = tuple(
        source.episode_order(
            *(order_seed(seed, number), data.lanes),
            max_episodes=data.pool_episodes,
            max_bytes=pool_bytes(data, share) // GROUPS_HELD,
        )
        for number, (source, share) in enumerate(zip(sources, weights))
    )
    return Mixture(seed, sizes, weights, pools, batch_size, data.lanes)


def pool_bytes(data: DataConfig, share: float) -> int:
    """Of one dataset."""
    return int(data.pool_bytes * share)
