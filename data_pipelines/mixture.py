"""The order of samples: a pure function of (seed, sample index), by Grain.

Each dataset's windows are shuffled anew every epoch and repeated (`pools.py` in access mode `episode`); the datasets
are interleaved by weight. Row r of global batch s is sample s * batch_size + r, whatever the number of hosts.
"""

import dataclasses
import enum
import functools
from typing import NamedTuple

import grain
import numpy as np

from data_pipelines.config import DataConfig
from data_pipelines.exposure import shares
from data_pipelines.pools import FOR_EVER, Drawn, EpisodeOrder, Visit
from data_pipelines.source import Source

FEW_WINDOWS = 4096
GROUPS_HELD = 3
"""Of a dataset in access mode `episode`: the one before, the one that is drawn from, the one that is fetched."""


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

    @functools.cached_property
    def _order(self) -> grain.MapDataset:
        if self.pools:
            parts = [grain.MapDataset.source(order) for order in self.pools]
        else:
            parts = [_shuffled(size, order_seed(self.seed, number)) for number, size in enumerate(self.sizes)]
        tagged = [part.map(_Tag(number)) for number, part in enumerate(parts)]
        return grain.MapDataset.mix(tagged, weights=self.weights) if len(tagged) > 1 else tagged[0]

    def __getitem__(self, sample: int) -> tuple[int, int]:
        """(dataset, window)."""
        return self._order[sample][:2]

    def planned(self, sample: int) -> Planned:
        return self._order[sample]

    def replacement(self, dataset: int, sample: int, attempt: int) -> int:
        """A window of the same dataset in place of a bad one; attempt 1, 2, ..."""
        return int(self.generator(Draw.REPLACEMENT, sample, attempt).integers(self.sizes[dataset]))

    def generator(self, draw: Draw, *key: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, draw, *key))))


def order_seed(seed: int, number: int) -> int:
    """Of the dataset's order of windows."""
    return int(np.random.SeedSequence((seed, Draw.ORDER, number)).generate_state(1)[0])


def _shuffled(size: int, seed: int) -> grain.MapDataset:
    """0..size-1 in an order that is new every epoch, for ever."""
    if size < FEW_WINDOWS:
        return grain.MapDataset.source(_Permutations(size, seed))
    return grain.MapDataset.range(size).shuffle(seed=seed).repeat()


@dataclasses.dataclass(frozen=True)
class _Permutations:
    """Grain's shuffle walks cycles of a permutation of 2^16 numbers: milliseconds a sample where there are few."""

    size: int
    seed: int

    def __len__(self) -> int:
        return FOR_EVER

    def __getitem__(self, sample: int) -> int:
        epoch, place = divmod(int(sample), self.size)
        return int(_permutation(self.size, self.seed, epoch)[place])


@functools.lru_cache(maxsize=64)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(size)


@dataclasses.dataclass(frozen=True)
class _Tag:
    dataset: int

    def __call__(self, drawn: int | Drawn) -> Planned:
        if isinstance(drawn, Drawn):
            return Planned(self.dataset, *drawn)
        return Planned(self.dataset, int(drawn))


def open_mixture(data: DataConfig, sources: list[Source], seed: int) -> Mixture:
    transitions = [source.index.num_steps for source in sources]
    weights = shares(data.mixture, transitions, weigh_by_size=data.weigh_by_size)
    pools: tuple[EpisodeOrder, ...] = ()
    if data.access == "episode":
        pools = tuple(
            source.episode_order(order_seed(seed, number), data.pool_episodes, pool_bytes(data, share) // GROUPS_HELD)
            for number, (source, share) in enumerate(zip(sources, weights))
        )
    return Mixture(seed, tuple(len(source.anchors) for source in sources), weights, pools)


def pool_bytes(data: DataConfig, share: float) -> int:
    """Of one dataset."""
    return int(data.pool_bytes * share)
