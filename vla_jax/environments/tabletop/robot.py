"""What the two embodiments share: the gripper, measured poses, and the limits of one command.

Axes: a native action, s state, u actuators.
"""

from typing import ClassVar, Protocol

import mujoco
import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from vla_jax.environments.tabletop.scene import FINGER_TRAVEL

WORKSPACE_LOW = np.array([-0.2, -0.24, 0.015])
WORKSPACE_HIGH = np.array([0.2, 0.24, 0.32])
"""Of the tool point, in the table's frame."""
MAX_METRES = 0.08
MAX_RADIANS = 0.5
"""What one command may ask for, from the measured pose on."""
DOWN = Rotation.from_quat([1.0, 0.0, 0.0, 0.0])
"""The hand's orientation at yaw 0: fingers down, x forward."""


def downward(position: np.ndarray, yaw_radians: float) -> Float[np.ndarray, "7"]:
    """The pose of a hand that points down, turned about the vertical; the quaternion's z and w are exactly 0."""
    return np.array([*position, np.cos(yaw_radians / 2), np.sin(yaw_radians / 2), 0.0, 0.0])


def yaw_of(pose: np.ndarray) -> float:
    """Turn about the vertical of a pose's x axis, in radians."""
    forward = Rotation.from_quat(pose[3:]).apply([1.0, 0.0, 0.0])
    return float(np.arctan2(forward[1], forward[0]))


class Robot(Protocol):
    """One embodiment bound to a compiled model. Poses are in the robot's base frame."""

    NAME: ClassVar[str]
    MJCF: ClassVar[str]
    ACTUATORS: ClassVar[str]
    RATE_HERTZ: ClassVar[float]
    STRIDE_METRES: ClassVar[float]
    """How far an expert moves in one step."""
    BASE: ClassVar[np.ndarray]
    """Origin of the base frame in the table's frame; the axes are the same."""
    ACTION: ClassVar[tuple[str, ...]]
    STATE: ClassVar[tuple[str, ...]]

    def __init__(self, model: mujoco.MjModel): ...

    def place(self, data: mujoco.MjData, pose: Float[np.ndarray, "7"]) -> None:
        """Puts the robot there at rest, gripper open."""
        ...

    def pose(self, data: mujoco.MjData) -> Float[np.ndarray, "7"]: ...

    def openness(self, data: mujoco.MjData) -> float: ...

    def state(self, data: mujoco.MjData) -> Float[np.ndarray, "s"]: ...

    def native_action(self, data: mujoco.MjData, pose: np.ndarray, gripper: float) -> Float[np.ndarray, "a"]: ...

    def controls(self, data: mujoco.MjData, action: np.ndarray) -> Float[np.ndarray, "u"]: ...


class Fingers:
    """The gripper's two joints in a model; their actuators are the last two."""

    def __init__(self, model: mujoco.MjModel):
        self.addresses = [model.joint(f"{side}_finger").qposadr[0] for side in ("left", "right")]

    def openness(self, data: mujoco.MjData) -> float:
        return float(np.clip(data.qpos[self.addresses].mean() / FINGER_TRAVEL, 0.0, 1.0))

    def place_open(self, data: mujoco.MjData) -> None:
        data.qpos[self.addresses] = FINGER_TRAVEL
        data.ctrl[-2:] = FINGER_TRAVEL

    def controls(self, openness: float) -> list[float]:
        return [float(np.clip(openness, 0.0, 1.0)) * FINGER_TRAVEL] * 2


def limited(now: np.ndarray, wanted: np.ndarray, base: np.ndarray) -> Float[np.ndarray, "7"]:
    """The wanted pose, no further from the measured one than one command may ask for, inside the workspace."""
    move = wanted[:3] - now[:3]
    distance = float(np.linalg.norm(move))
    position = now[:3] + move * min(1.0, MAX_METRES / max(distance, 1e-9))
    position = np.clip(position, WORKSPACE_LOW - base, WORKSPACE_HIGH - base)
    here, there = Rotation.from_quat(now[3:]), Rotation.from_quat(wanted[3:])
    turn = (there * here.inv()).as_rotvec()
    angle = np.linalg.norm(turn)
    if angle > MAX_RADIANS:
        there = Rotation.from_rotvec(turn * MAX_RADIANS / angle) * here
    return np.concatenate([position, _canonical(there.as_quat())])


def measured(position: np.ndarray, matrix: np.ndarray) -> Float[np.ndarray, "7"]:
    quaternion = Rotation.from_matrix(matrix.reshape(3, 3)).as_quat()
    return np.concatenate([position, _canonical(quaternion)])


def _canonical(quaternion: np.ndarray) -> np.ndarray:
    """Of the two that mean the same turn: the one whose largest component is positive."""
    return quaternion if quaternion[np.abs(quaternion).argmax()] > 0 else -quaternion
