"""The order of samples: a pure function of (seed, sample index), by Grain.

Each dataset's windows are shuffled anew every epoch and repeated; the datasets are interleaved by weight. Row r of
global batch s is sample s * batch_size + r, whatever the number of hosts.
"""

import dataclasses
import enum
import functools

import grain
import numpy as np

from data_pipelines.config import DataConfig
from data_pipelines.source import Source

FEW_WINDOWS = 4096
FOR_EVER = 1 << 48


class Draw(enum.IntEnum):
    """What a random number is for: each use has its own stream."""

    ORDER = 0
    REPLACEMENT = 1
    LANGUAGE = 2
    CROP = 3


@dataclasses.dataclass(frozen=True)
class Mixture:
    seed: int
    sizes: tuple[int, ...]
    """Windows of each dataset."""
    weights: tuple[float, ...]

    @functools.cached_property
    def _order(self) -> grain.MapDataset:
        parts = [_shuffled(size, self._order_seed(number)) for number, size in enumerate(self.sizes)]
        tagged = [part.map(_Tag(number)) for number, part in enumerate(parts)]
        return grain.MapDataset.mix(tagged, weights=self.weights) if len(tagged) > 1 else tagged[0]

    def __getitem__(self, sample: int) -> tuple[int, int]:
        """(dataset, window)."""
        return self._order[sample]

    def replacement(self, dataset: int, sample: int, attempt: int) -> int:
        """A window of the same dataset in place of a bad one; attempt 1, 2, ..."""
        return int(self.generator(Draw.REPLACEMENT, sample, attempt).integers(self.sizes[dataset]))

    def generator(self, draw: Draw, *key: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, draw, *key))))

    def _order_seed(self, number: int) -> int:
        return int(np.random.SeedSequence((self.seed, Draw.ORDER, number)).generate_state(1)[0])


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

    def __call__(self, window: int) -> tuple[int, int]:
        return self.dataset, int(window)


def open_mixture(data: DataConfig, sources: list[Source], seed: int) -> Mixture:
    weights = [
        entry.weight * (source.index.num_steps if data.weigh_by_size else 1)
        for entry, source in zip(data.mixture, sources)
    ]
    total = sum(weights)
    return Mixture(seed, tuple(len(source.anchors) for source in sources), tuple(weight / total for weight in weights))
