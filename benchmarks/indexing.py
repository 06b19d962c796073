"""Indexing: megabytes a second of one core from the page cache, beside what its checksums alone would cost.

    python -m benchmarks.indexing [--json FILE] [--episodes N] [--repeats N]

The data are those of `benchmarks/data_pipeline.py`: pictures of 256 x 256, 38 steps an episode. CPU time of one process
(user and system); repeats interleave. `sha256` is what a second pass over the bytes would add.
"""

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import google_crc32c
from rich.console import Console
from rich.table import Table

from benchmarks.data_pipeline import STEPS, _real_pictures
from data_pipelines.index.dataset_directory import read_directory
from data_pipelines.index.shard_index import index_shard
from data_pipelines.index.tfrecord import content_digest
from tests.rlds_episodes import write_bridge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options.episodes, options.repeats)
    table = Table("pass over the shards", "MB per CPU-second", "all repeats")
    for name, speeds in result["megabytes_per_cpu_second"].items():
        table.add_row(name, f"{statistics.median(speeds):.0f}", " ".join(f"{speed:.0f}" for speed in speeds))
    Console(width=110).print(table)
    print(json.dumps(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def measure(root: Path, episodes: int, repeats: int) -> dict:
    folder = write_bridge(root, lengths=(STEPS,) * episodes, size=(8, 8), shards=8, edit=_real_pictures())
    directory = read_directory(folder)
    shards = directory.shards("train")
    num_bytes = sum(shard.path.stat().st_size for shard in shards)
    passes: dict[str, Callable] = {
        "index: checksums, ranges, numbers, digest": lambda shard: index_shard(shard, directory.features),
        "revalidation: checksums, digest": lambda shard: content_digest(shard.path),
        "whole file into new memory, crc32c": lambda shard: google_crc32c.value(shard.path.read_bytes()),
        "whole file into new memory, sha256": lambda shard: hashlib.sha256(shard.path.read_bytes()).digest(),
    }
    speeds: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(repeats):
        for name, work in passes.items():
            start = time.process_time()
            for shard in shards:
                work(shard)
            speeds[name].append(num_bytes / 1e6 / (time.process_time() - start))
    return {"megabytes": num_bytes / 1e6, "steps": episodes * STEPS, "megabytes_per_cpu_second": speeds}


if __name__ == "__main__":
    main()
