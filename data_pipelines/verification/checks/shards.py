"""Shards whose bytes are not what was published."""

import re
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.verification.check import Check, Visit
from data_pipelines.verification.finding import Finding
from data_pipelines.verification.subject import Subject

SHARD_NAME = re.compile(r".*\.tfrecord-\d{5}-of-\d{5}")


class _DamageCheck(Check):
    severity = "error"

    def of_shard(self, visit: Visit) -> Iterator[Finding]:
        place = visit.place
        for number, damage in visit.damages:
            if damage.code == self.code:
                episode = place.first_episode + number if visit.num_found else None
                yield self.finding(damage.message, split=place.split, shard=place.shard, episode=episode)


class ShardTruncated(_DamageCheck):
    """The file ends inside a record: a download or copy that stopped. TensorFlow raises DataLossError there, or with
    ignore_errors drops the rest of the shard silently. A cut exactly between two records is a count_mismatch.
    """

    code = "shard_truncated"


class ShardCorrupt(_DamageCheck):
    """A checksum (crc32c) of a record's length or data fails, or its bytes are no tf.train.Example, or its features
    disagree on the number of steps. One finding a damaged place; records after it are read.
    """

    code = "shard_corrupt"


class ShardEmpty(_DamageCheck):
    """0 bytes, though dataset_info.json lists records in it. TensorFlow reads it without an error: its episodes are
    missing from training unnoticed.
    """

    code = "shard_empty"


class ShardMissing(_DamageCheck):
    """No file of a name that dataset_info.json lists."""

    code = "shard_missing"


class ShardLfsPointer(_DamageCheck):
    """A text of three lines that stands for the file in a Git repository with LFS, cloned without `git lfs`."""

    code = "shard_lfs_pointer"


class CountMismatch(Check):
    """An undamaged shard has more or fewer records than shardLengths in dataset_info.json says, or a shard lies in
    the folder that it does not list: the two are of different copies, and whoever trusts the counts (episode numbers,
    mixture weights) is wrong.
    """

    code, severity = "count_mismatch", "error"

    def of_description(self, subject: Subject) -> Iterator[Finding]:
        folder = subject.directory.path
        if not isinstance(folder, Path):
            return
        listed = {shard.path.name for shards in subject.directory.splits.values() for shard in shards}
        for file in sorted(path.name for path in folder.iterdir() if SHARD_NAME.fullmatch(path.name)):
            if file not in listed:
                yield self.finding("lies in the folder, but dataset_info.json does not list it", shard=file)

    def of_shard(self, visit: Visit) -> Iterator[Finding]:
        if not visit.damages and visit.num_found != visit.num_listed:
            message = f"{visit.num_found} records, dataset_info.json says {visit.num_listed} (shardLengths)"
            yield self.finding(message, split=visit.place.split, shard=visit.place.shard)
