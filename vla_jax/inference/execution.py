"""From predicted chunks to the target of each step: receding horizon, and temporal ensembling.

Poses are absolute, in the robot's base frame: x, y, z in metres, then a unit quaternion x, y, z, w. Openness: 1 open.
Axes: h horizon, k chunks that overlap at one step.
Source: EF-VLA section 3.2 and its published evaluation code, which re-plans every step and averages the chunks that
overlap with weights exp(0.05 i), i = 0 the oldest: the newest weighs most (ACT, arXiv 2304.13705, has it reversed).
"""

import dataclasses
from collections import deque
from typing import Protocol

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    steps: int = 8
    """Of each chunk that are used at most: the paper's action horizon."""
    ensemble: bool = True
    """True: a new plan every step, overlapping chunks averaged. False: a new plan when `steps` are carried out."""
    newest_weight: float = 0.05
    """The exponent's slope: each chunk weighs exp(newest_weight) times the one before it."""

    def __post_init__(self):
        if self.steps < 1:
            raise InputError(f"execution.steps={self.steps}: at least 1 expected")

    def build(self) -> Execution:
        return TemporalEnsemble(self) if self.ensemble else RecedingHorizon(self)


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
    """Averages what the last `steps` chunks say of this step; the gripper's average is rounded to open or closed."""

    needs_plan = True

    def __init__(self, config: ExecutionConfig):
        self._slope = config.newest_weight
        self._chunks: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=config.steps)
        self._steps = config.steps

    def add(self, poses: Float[np.ndarray, "h 7"], openness: Float[np.ndarray, "h"]) -> None:
        self._chunks.append((poses[: self._steps], openness[: self._steps]))

    def next_target(self) -> Target:
        ages = range(len(self._chunks) - 1, -1, -1)
        overlapping = [(p[age], o[age]) for age, (p, o) in zip(ages, self._chunks) if age < len(p)]
        poses = np.array([pose for pose, _ in overlapping], np.float64)
        weights = np.exp(self._slope * np.arange(len(poses)))
        weights /= weights.sum()
        rotation = Rotation.from_quat(poses[:, 3:]).mean(weights).as_quat()
        openness = float(weights @ np.array([o for _, o in overlapping]))
        return np.concatenate([weights @ poses[:, :3], rotation]).astype(np.float32), float(openness > 0.5)
