"""Statistics: steps a second of one core, from a shard's raw numbers in the index to mergeable summaries.

    python -m benchmarks.statistics [--json FILE] [--episodes N] [--repeats N]

Bridge's numbers (state and action, 38 steps an episode, 256 episodes a shard) are generated in memory, standardised,
mapped into EF-VLA's action space at several horizons, summarised and merged; summarised too in the padded one of all
embodiments. CPU time of one process; repeats interleave. A stage alone: `standardise` makes the table, which is kept;
`targets` is the action space's own work.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from data_pipelines.action_spaces import relative_pose, unified
from data_pipelines.discovery import find_dataset
from data_pipelines.schema import Trajectory
from data_pipelines.standardization import standardize_episodes
from data_pipelines.summary import BLOCK, Summary, summarize
from data_pipelines.trajectories import Trajectories
from data_pipelines.transforms.chunk import Chunk
from vla_jax.types import ActionSpace

STEPS, EPISODES_PER_SHARD = 38, 256
HORIZONS, UNIFIED_HORIZONS = (1, 4, 12), (8, 50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = measure(options.episodes, options.repeats)
    table = Table("pass", "steps per CPU-second", "all repeats")
    for name, speeds in result["steps_per_cpu_second"].items():
        table.add_row(name, f"{statistics.median(speeds):,.0f}", " ".join(f"{speed:,.0f}" for speed in speeds))
    Console(width=110).print(table)
    print(json.dumps(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def measure(episodes: int, repeats: int) -> dict:
    shards = [_shard(number) for number in range(episodes // EPISODES_PER_SHARD)]
    num_steps = np.full(EPISODES_PER_SHARD, STEPS)
    total = len(shards) * EPISODES_PER_SHARD * STEPS
    standardize = find_dataset("bridge_dataset").standardize

    def table_of(raw: Trajectory) -> Trajectory:
        return standardize_episodes(standardize, raw, num_steps, "benchmark")

    def summary_of(columns: Trajectory, space: ActionSpace) -> Summary:
        return Summary.load(summarize(columns, num_steps, space).arrays(), space)

    tables = [table_of(raw) for raw in shards]
    speeds: dict[str, list[float]] = {}

    def timed(name: str, work) -> None:
        start = time.process_time()
        work()
        speeds.setdefault(name, []).append(total / (time.process_time() - start))

    def whole(space: ActionSpace) -> None:
        merged = Summary(space)
        for raw in shards:
            merged.merge(summary_of(table_of(raw), space))
        merged.tree(space)

    for _ in range(repeats):
        timed("standardise", lambda: [table_of(raw) for raw in shards])
        for space in map(relative_pose.action_space, HORIZONS):
            h = space.horizon
            timed(f"targets, horizon {h}", lambda h=h: [_targets(table, num_steps, h) for table in tables])
            timed(f"summarise, horizon {h}", lambda s=space: [summary_of(table, s) for table in tables])
            timed(f"standardise, summarise, merge, horizon {h}", lambda s=space: whole(s))
        for space in map(unified.action_space, UNIFIED_HORIZONS):
            timed(f"unified: summarise, horizon {space.horizon}", lambda s=space: [summary_of(t, s) for t in tables])
    return {"steps": total, "steps_per_cpu_second": speeds}


def _targets(columns: Trajectory, num_steps: np.ndarray, horizon: int) -> None:
    columns = {key: columns[key] for key in relative_pose.REQUIRED}
    trajectories = Trajectories(np.append(0, np.cumsum(num_steps)), columns["target_valid"])
    for start in range(0, trajectories.num_steps, BLOCK):
        rows = np.arange(start, min(start + BLOCK, trajectories.num_steps))
        future, _ = trajectories.chunk(Chunk(horizon), rows)
        steps = {key: column[rows] for key, column in columns.items()}
        relative_pose.targets(steps, {key: column[future] for key, column in columns.items()})


def _shard(number: int) -> Trajectory:
    generator = np.random.default_rng(number)
    shape = (EPISODES_PER_SHARD * STEPS, 7)
    state = np.cumsum(generator.normal(size=(EPISODES_PER_SHARD, STEPS, 7)) * 0.02, axis=1).reshape(shape)
    action = generator.normal(size=shape) * 0.02
    action[:, 6], state[:, 6] = generator.choice([0.0, 0.3, 1.0], shape[0]), generator.uniform(size=shape[0])
    return {"action": action.astype(np.float32), "observation/state": state.astype(np.float32)}


if __name__ == "__main__":
    main()
