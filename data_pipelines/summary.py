"""What a dataset's actions and proprio are like in an action space, from the table alone: no picture is read.

Targets are pooled over the valid entries of the chunks at every step, proprio over all steps. Rows that are not finite
are left out and counted. Summaries of shards or datasets merge (`sketch.py` says how exactly).

Axes: n rows, h horizon, episode, step (all episodes in order).
"""

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipelines.sketch import Sketch
from data_pipelines.trajectories import Trajectories
from data_pipelines.transforms.chunk import Chunk
from vla_jax.types import ActionSpace

BLOCK = 8192
COUNTS = ("num_steps", "num_episodes", "num_left_out")


class Summary:
    def __init__(self, space: ActionSpace):
        self.action, self.proprio = Sketch(space.action_width), Sketch(space.proprio_width)
        self.num_steps, self.num_episodes, self.num_left_out = 0, 0, 0

    @classmethod
    def load(cls, arrays: Mapping[str, np.ndarray], space: ActionSpace) -> "Summary":
        summary = cls(space)
        summary.action, summary.proprio = Sketch.load(arrays, "action_"), Sketch.load(arrays, "proprio_")
        for name in COUNTS:
            setattr(summary, name, int(arrays[name]))
        return summary

    def arrays(self) -> dict[str, np.ndarray]:
        counts = {name: np.array(getattr(self, name)) for name in COUNTS}
        return counts | self.action.arrays("action_") | self.proprio.arrays("proprio_")

    def merge(self, other: "Summary") -> None:
        self.action.merge(other.action)
        self.proprio.merge(other.proprio)
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def tree(self, space: ActionSpace) -> dict[str, Any]:
        """A dataset's part of dataset_statistics.json, without `key` and `made_from`."""
        return {
            "action": self.action.tree(space.dimensions),
            "proprio": self.proprio.tree(space.proprio),
            "num_transitions": self.num_steps,
            "num_trajectories": self.num_episodes,
        }


def summarize(columns: Mapping[str, np.ndarray], num_steps: np.ndarray, space: ActionSpace) -> Summary:
    """Args: columns: of a table, any where there are no steps; num_steps: int64[episode]."""
    summary, chunk = Summary(space), Chunk(space.horizon)
    summary.num_steps, summary.num_episodes = int(np.sum(num_steps)), len(num_steps)
    if not summary.num_steps:
        return summary
    form = importlib.import_module(f"data_pipelines.action_spaces.{space.form}")
    used = [key for key in (*form.REQUIRED, *getattr(form, "OPTIONAL", ()), "finite") if key in columns]
    columns = {key: np.asarray(columns[key]) for key in used}
    trajectories = Trajectories(np.append(0, np.cumsum(num_steps)), columns[form.VALID])
    for start in range(0, trajectories.num_steps, BLOCK):
        rows = np.arange(start, min(start + BLOCK, trajectories.num_steps))
        finite = columns["finite"][rows]
        steps = {key: column[rows] for key, column in columns.items()}
        future, mask = trajectories.chunk(chunk, rows)
        ahead = {key: column[future] for key, column in columns.items()}
        summary.action.add(form.targets(steps, ahead)[mask & finite[:, None] & ahead["finite"]])
        summary.proprio.add(form.proprio(steps)[finite])
        summary.num_left_out += int((~finite).sum())
    return summary
