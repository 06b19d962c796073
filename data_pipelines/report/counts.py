"""How many episodes and steps there are, against what dataset_info.json and the SPEC say."""

import contextlib
import dataclasses

import numpy as np

from data_pipelines.index.dataset_directory import DatasetDirectory
from data_pipelines.index.sidecar import Index
from data_pipelines.spec import DatasetSpec
from data_pipelines.storage import stamp
from vla_jax.types import InputError

MOST_SHARDS = 48
"""Listed of a split."""


@dataclasses.dataclass(frozen=True)
class ShardCount:
    file: str
    listed: int
    """Episodes, by dataset_info.json's shardLengths."""
    found: int | None
    """None: the split has no index, because some shard is damaged or missing."""
    steps: int | None
    num_bytes: int | None
    """None: missing."""


@dataclasses.dataclass(frozen=True)
class SplitCount:
    name: str
    shards: tuple[ShardCount, ...]
    published: int | None
    """Episodes, by the SPEC."""

    @property
    def listed(self) -> int:
        return sum(shard.listed for shard in self.shards)

    @property
    def found(self) -> int | None:
        found = [shard.found for shard in self.shards if shard.found is not None]
        return sum(found) if len(found) == len(self.shards) else None

    @property
    def steps(self) -> int | None:
        steps = [shard.steps for shard in self.shards if shard.steps is not None]
        return sum(steps) if len(steps) == len(self.shards) else None

    @property
    def num_bytes(self) -> int:
        return sum(shard.num_bytes or 0 for shard in self.shards)

    @property
    def shown(self) -> tuple[ShardCount, ...]:
        """Those of another count than listed, and the missing ones, first."""
        order = sorted(self.shards, key=lambda shard: shard.found == shard.listed and shard.num_bytes is not None)
        return tuple(order[:MOST_SHARDS])


def count_split(directory: DatasetDirectory, split: str, index: Index | None, spec: DatasetSpec | None) -> SplitCount:
    """Args: index: of the split; None where it could not be made."""
    shards = directory.shards(split)
    found: list[int | None] = [None] * len(shards)
    steps: list[int | None] = [None] * len(shards)
    if index is not None:
        number, length = index.episodes[:, 0], index.episodes[:, 4]
        found = np.bincount(number, minlength=len(shards)).tolist()
        steps = np.bincount(number, length, minlength=len(shards)).astype(np.int64).tolist()
    counts = []
    for place, shard in enumerate(shards):
        num_bytes = None
        if index is not None:
            num_bytes = int(index.tree["shards"][place]["bytes"])
        else:
            with contextlib.suppress(FileNotFoundError, IsADirectoryError, InputError):
                num_bytes = stamp(shard.path).num_bytes
        counts.append(ShardCount(shard.path.name, shard.num_records, found[place], steps[place], num_bytes))
    return SplitCount(split, tuple(counts), spec.episodes.get(split) if spec else None)
