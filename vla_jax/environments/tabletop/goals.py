"""What a task asks for, as predicates on the scene. All positions are in the table's frame, metres.

The table's top is z = 0; x points from the robot to the front camera, y to the right of the front picture.
"""

import dataclasses
from typing import Protocol

import numpy as np
from jaxtyping import Float

BLOCK_HALF = 0.02
PLATE_RADIUS = 0.06
PLATE_HEIGHT = 0.004
HOVER = 0.06
"""Of the gripper above the table where a block is reached: 4 cm above the block's centre."""
LIFT = 0.14
"""Height of a block's centre that an expert carries it at."""


@dataclasses.dataclass(frozen=True)
class Situation:
    """Where everything is at one moment."""

    tool: Float[np.ndarray, "3"]
    """The point between the finger tips."""
    openness: float
    bodies: dict[str, Float[np.ndarray, "3"]]

    def holds(self, body: str) -> bool:
        return self.openness < 0.8 and float(np.linalg.norm(self.tool - self.bodies[body])) < 0.03

    def has_let_go(self, body: str) -> bool:
        return self.openness > 0.7 and float(np.linalg.norm(self.tool - self.bodies[body])) > 0.03


class Goal(Protocol):
    @property
    def body(self) -> str:
        """The block that the goal is about."""
        ...

    def reached(self, now: Situation) -> bool: ...

    def begun(self, now: Situation) -> bool:
        """What half the score is for."""
        ...


@dataclasses.dataclass(frozen=True)
class Reach:
    """The gripper is 4 cm above the block's centre, within 3 cm; half: within 6 cm."""

    body: str

    def point(self, now: Situation) -> Float[np.ndarray, "3"]:
        return np.array([*now.bodies[self.body][:2], HOVER])

    def reached(self, now: Situation) -> bool:
        return float(np.linalg.norm(now.tool - self.point(now))) < 0.03

    def begun(self, now: Situation) -> bool:
        return float(np.linalg.norm(now.tool - self.point(now))) < 0.06


@dataclasses.dataclass(frozen=True)
class Lift:
    """The block is held 8 cm above where it lay; half: it is held and off the table."""

    body: str

    def reached(self, now: Situation) -> bool:
        return now.holds(self.body) and now.bodies[self.body][2] > BLOCK_HALF + 0.08

    def begun(self, now: Situation) -> bool:
        return _is_carried(self.body, now)


@dataclasses.dataclass(frozen=True)
class PutOn:
    """The block lies on the plate or block and was let go; half: it is held and off the table."""

    body: str
    target: str

    def reached(self, now: Situation) -> bool:
        offset = now.bodies[self.body] - now.bodies[self.target]
        distance = float(np.hypot(offset[0], offset[1]))
        if self.target.startswith("plate"):
            lies = distance < 0.045 and now.bodies[self.body][2] < 0.03
        else:
            lies = distance < 0.02 and abs(offset[2] - 2 * BLOCK_HALF) < 0.01
        return lies and now.has_let_go(self.body)

    def begun(self, now: Situation) -> bool:
        return _is_carried(self.body, now)

    def resting_height(self, now: Situation) -> float:
        """Of the block's centre when it lies on the target."""
        if self.target.startswith("plate"):
            return PLATE_HEIGHT + BLOCK_HALF
        return float(now.bodies[self.target][2]) + 2 * BLOCK_HALF


def _is_carried(body: str, now: Situation) -> bool:
    return now.holds(body) and now.bodies[body][2] > BLOCK_HALF + 0.02
