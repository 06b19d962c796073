"""Scripted experts: for each goal of a task a row of phases, each led by where things really are.

Commands are absolute poses one stride ahead at most; the last stride of an approach is shorter, so that motions end
softly. Positions in this file are in the table's frame.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float

from vla_jax.environments.tabletop.environment import Tabletop
from vla_jax.environments.tabletop.goals import HOVER, LIFT, Goal, PutOn, Reach, Situation
from vla_jax.environments.tabletop.robot import downward, yaw_of

APPROACH = 0.10
"""Height of the tool point before a descent."""
GRIP_SECONDS = 0.4
RETREAT = 0.07
SOFTNESS = 0.7
"""Share of the remaining way that a stride covers at most."""
MAX_TURN_RADIANS = 0.1


@dataclasses.dataclass(frozen=True)
class Phase:
    point: Callable[[Situation], np.ndarray]
    """Where the tool point should be."""
    openness: float
    tolerance: float = 0.012
    """Distance in metres at which the phase ends; infinite: it ends after `seconds`."""
    seconds: float = 0.0
    """Time it lasts at least."""


class Expert:
    def __init__(self, environment: Tabletop):
        self._environment = environment
        self._rate, self.stride_metres = environment.spec.rate_hertz, environment.robot.STRIDE_METRES
        self._phases = self._plan()
        self._phase: Phase | None = next(self._phases)
        self._steps = 0
        self._yaw = 0.0

    @property
    def finished(self) -> bool:
        return self._phase is None

    def command(self) -> tuple[Float[np.ndarray, "7"], float]:
        now = self._environment.situation()
        assert self._phase is not None
        way = self._phase.point(now) - now.tool
        distance = float(np.linalg.norm(way))
        stride = min(self.stride_metres, SOFTNESS * distance if distance > 0.01 else distance)
        position = now.tool + way * stride / max(distance, 1e-9)
        pose = self._environment.pose()
        turn = np.clip(SOFTNESS * (self._yaw - yaw_of(pose)), -MAX_TURN_RADIANS, MAX_TURN_RADIANS)
        target = downward(position - self._environment.robot.BASE, yaw_of(pose) + turn)
        return target, self._phase.openness

    def observe(self) -> None:
        now, phase = self._environment.situation(), self._phase
        assert phase is not None
        self._steps += 1
        near = float(np.linalg.norm(phase.point(now) - now.tool)) < phase.tolerance
        if near and self._steps >= round(phase.seconds * self._rate):
            self._phase, self._steps = next(self._phases, None), 0

    def _plan(self) -> Iterator[Phase]:
        for goal in self._environment.task.goals:
            if isinstance(goal, Reach):
                self._yaw = 0.0
                yield Phase(goal.point, 1.0, tolerance=0.01)
            else:
                yield from self._grasp(goal)
                if isinstance(goal, PutOn):
                    yield from self._put(goal)

    def _grasp(self, goal: Goal) -> Iterator[Phase]:
        body = goal.body
        self._yaw = _quarter(self._environment.block_yaw(body))
        yield Phase(lambda now: np.array([*now.bodies[body][:2], APPROACH]), 1.0)
        yield Phase(lambda now: np.array([*now.bodies[body][:2], 0.02]), 1.0, tolerance=0.006)
        held = self._environment.situation().tool
        yield Phase(lambda _: held, 0.0, tolerance=np.inf, seconds=GRIP_SECONDS)
        yield Phase(lambda _: np.array([*held[:2], LIFT]), 0.0)

    def _put(self, goal: PutOn) -> Iterator[Phase]:
        body, target = goal.body, goal.target

        def above(now: Situation, height: float) -> np.ndarray:
            """Brings the block, not the tool point, over the target."""
            return np.array([*now.bodies[target][:2], height]) + now.tool - now.bodies[body]

        yield Phase(lambda now: above(now, LIFT), 0.0, tolerance=0.008)
        yield Phase(lambda now: above(now, goal.resting_height(now) + 0.002), 0.0, tolerance=0.006)
        left = self._environment.situation().tool
        yield Phase(lambda _: left, 1.0, tolerance=np.inf, seconds=GRIP_SECONDS)
        yield Phase(lambda _: left + np.array([0.0, 0.0, RETREAT]), 1.0, tolerance=0.02)


def _quarter(yaw: float) -> float:
    """A square block looks the same every quarter turn: the smallest such turn."""
    return (yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4


assert HOVER < APPROACH < LIFT
