"""From predicted chunks to the target of each step: receding horizon, and temporal ensembling.

Poses are absolute, in the robot's base frame: x, y, z in metres, then a unit quaternion x, y, z, w. Openness: 1 open.
Axes: h horizon, k chunks that overlap at one step.
Source: EF-VLA section 3.2 ("temporal ensembling in conjunction with receding horizon") and its published evaluation
code, which does one or the other: it carries out the first 8 steps of a chunk, or re-plans every step and averages the
chunks that overlap with weights exp(0.05 i), i = 0 the oldest: the newest weighs most (ACT, arXiv 2304.13705, has it
reversed: a negative slope). `both`, which no code defines, re-plans after 8 steps and averages where chunks overlap.
"""

import dataclasses
from collections import deque
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from vla_jax.types import InputError

Target = tuple[Float[np.ndarray, "7"], float]
"""Absolute pose and openness for one step."""


class Execution(Protocol):
    """Of one robot and trial: when a plan is needed `add` it, then take the `next_target`."""

    @property
    def needs_plan(self) -> bool: ...

    def add(self, poses: Float[np.ndarray, "h 7"], openness: Float[np.ndarray, "h"]) -> None: ...

    def next_target(self) -> Target: ...


Mode = Literal["ensemble", "open_loop", "both"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    mode: Mode = "ensemble"
    """`ensemble`: a new plan every step, overlapping chunks averaged. `open_loop`: a new plan when `steps` are carried
    out. `both`: a new plan then, and what is left of older chunks is averaged with it."""
    steps: int = 8
    """Of each chunk that are used at most, the paper's action horizon; `both`: until the next plan."""
    newest_weight: float = 0.05
    """The exponent's slope: each chunk weighs exp(newest_weight) times the one before it."""

    def __post_init__(self):
        if self.steps < 1:
            raise InputError(f"execution.steps={self.steps}: at least 1 expected")

    def build(self) -> Execution:
        return RecedingHorizon(self) if self.mode == "open_loop" else TemporalEnsemble(self)


class RecedingHorizon:
    """Carries out the first `steps` of a chunk, then asks for the next one."""

    def __init__(self, config: ExecutionConfig):
        self._steps = config.steps
        self._left: deque[Target] = deque()

    @property
    def needs_plan(self) -> bool:
        return not self._left

    def add(self, poses: Float[np.ndarray, "h 7"], openness: Float[np.ndarray, "h"]) -> None:
        self._left = deque(zip(poses[: self._steps], map(float, openness[: self._steps])))

    def next_target(self) -> Target:
        return self._left.popleft()


class TemporalEnsemble:
    """Averages what chunks say of this step; the gripper's average is rounded to open or closed."""

    def __init__(self, config: ExecutionConfig):
        self._slope = config.newest_weight
        self._used = config.steps if config.mode == "ensemble" else None
        self._between = 1 if config.mode == "ensemble" else config.steps
        self._since_plan = 0
        self._chunks: list[tuple[np.ndarray, np.ndarray]] = []

    @property
    def needs_plan(self) -> bool:
        return not self._chunks or self._since_plan >= self._between

    def add(self, poses: Float[np.ndarray, "h 7"], openness: Float[np.ndarray, "h"]) -> None:
        self._chunks.append((poses[: self._used], openness[: self._used]))
        self._since_plan = 0

    def next_target(self) -> Target:
        """Each chunk's first entry is this step's; it is then left behind."""
        overlapping = [(p[0], o[0]) for p, o in self._chunks]
        self._chunks = [(p[1:], o[1:]) for p, o in self._chunks if len(p) > 1]
        self._since_plan += 1
        poses = np.array([pose for pose, _ in overlapping], np.float64)
        weights = np.exp(self._slope * np.arange(len(poses)))
        weights /= weights.sum()
        rotation = Rotation.from_quat(poses[:, 3:]).mean(weights).as_quat()
        openness = float(weights @ np.array([o for _, o in overlapping]))
        return np.concatenate([weights @ poses[:, :3], rotation]).astype(np.float32), float(openness > 0.5)
