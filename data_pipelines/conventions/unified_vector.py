"""One padded vector for every embodiment, and which of its places a robot has.

    24  dx dy dz droll dpitch dyaw gripper joint_0..6   left_gripper left_joint_0..6   2 spare
    32  the first 22, then left_dx .. left_dyaw, base_dx base_dy base_dyaw, 1 spare

Action: motions are the column `delta` (of the second arm `left_delta`, of a mobile base `base_delta`), joints absolute
`target_joints`, grippers openness; what a robot is not told is 0 and masked. Proprio: the same places hold the
measured pose (x y z roll pitch yaw), openness, joints and place of the base, followed by the action's mask as so many
0s and 1s, so that a policy knows the robot at test time too. Grippers, spares and masks are not normalised.

Source: HiMoE-VLA for 24 numbers with their mask beside the state, pi0 for 32; neither publishes an order, this one is
ours. Axes: n samples, h horizon, a action.
"""

import dataclasses
import functools

import numpy as np

from data_pipelines.conventions.motion import roll_pitch_yaw
from data_pipelines.conventions.pose import rotation
from data_pipelines.schema import Trajectory
from vla_jax.types import ActionSpace, Dimension, InputError, Normalization

NUM_JOINTS = 7
MOTION = ("dx", "dy", "dz", "droll", "dpitch", "dyaw")
JOINTS = tuple(f"joint_{number}" for number in range(NUM_JOINTS))
SHARED = (*MOTION, "gripper", *JOINTS, "left_gripper", *(f"left_{name}" for name in JOINTS))
LAYOUTS = {
    24: (*SHARED, "spare_0", "spare_1"),
    32: (*SHARED, *(f"left_{name}" for name in MOTION), "base_dx", "base_dy", "base_dyaw", "spare_0"),
}
COMMANDS = {
    "dx": "delta",
    "gripper": "target_gripper",
    "joint_0": "target_joints",
    "left_gripper": "left_target_gripper",
    "left_joint_0": "left_target_joints",
    "left_dx": "left_delta",
    "base_dx": "base_delta",
}
"""First place of each part -> the column that commands it."""
MEASURED = {
    "dx": "pose",
    "gripper": "gripper",
    "joint_0": "joints",
    "left_gripper": "left_gripper",
    "left_joint_0": "left_joints",
    "left_dx": "left_pose",
    "base_dx": "base",
}
VALID = "delta_valid"
"""Of a whole step; without motions it is `target_valid`. A dataset whose joints have no target at a step that has a
motion must give it as False there."""
REQUIRED = (VALID,)
OPTIONAL = (*COMMANDS.values(), *MEASURED.values())


@dataclasses.dataclass(frozen=True)
class UnifiedVector:
    """The functions of an action space; see `action_spaces/unified.py`."""

    form: str
    width: int

    @functools.cached_property
    def places(self) -> tuple[str, ...]:
        return LAYOUTS[self.width]

    def action_space(self, horizon: int, normalization: Normalization = "none") -> ActionSpace:
        layout = tuple(_dimension(name) for name in self.places)
        present = tuple(Dimension(name=f"has_{name}", unit="0 or 1", normalize=False) for name in self.places)
        return ActionSpace(
            form=self.form,
            horizon=horizon,
            dimensions=layout,
            proprio=(*layout, *present),
            normalization=normalization,
        )

    def available(self, columns: Trajectory) -> np.ndarray:
        """bool[a]: the dimensions of the action that a dataset with these columns commands."""
        mask = np.zeros(self.width, bool)
        for parts, is_commanded in ((MEASURED, False), (COMMANDS, True)):
            for first, column in parts.items():
                if column in columns and first in self.places:
                    mask[self._span(first, column, columns[column])] |= is_commanded
        if not mask.any():
            raise InputError(f"action space {self.form!r}: the dataset commands none of {sorted(COMMANDS.values())}")
        return mask

    def proprio(self, steps: Trajectory) -> np.ndarray:
        """float32[n, 2 a] of n steps."""
        measured = {column: _numbers(column, steps[column]) for column in MEASURED.values() if column in steps}
        vector = self._vector(MEASURED, measured, steps[VALID].shape)
        present = np.broadcast_to(self.available(steps), vector.shape)
        return np.concatenate([vector, present], axis=-1).astype(np.float32)

    def targets(self, steps: Trajectory, future: Trajectory) -> np.ndarray:
        """float32[n, h, a]: `future` has the [n, h] steps whose commands make up the chunks."""
        return self._vector(COMMANDS, future, future[VALID].shape)

    def _span(self, first: str, column: str, numbers: np.ndarray) -> slice:
        """Where the numbers of a column [..., k] or [...] lie."""
        start = self.places.index(first)
        if "joint" not in first:
            return slice(start, start + (1 if "gripper" in first else 3 if "base" in first else len(MOTION)))
        if (count := numbers.shape[-1]) > NUM_JOINTS:
            raise InputError(f"action space {self.form!r}: {column} has {count} joints; at most {NUM_JOINTS} expected")
        return slice(start, start + count)

    def _vector(self, parts: dict[str, str], columns: Trajectory, shape: tuple[int, ...]) -> np.ndarray:
        vector = np.zeros((*shape, self.width), np.float32)
        for first, column in parts.items():
            if column in columns and first in self.places:
                numbers = columns[column]
                is_scalar = numbers.ndim == len(shape)
                vector[..., self._span(first, column, numbers)] = numbers[..., None] if is_scalar else numbers
        return vector


def _dimension(name: str) -> Dimension:
    if name.endswith("gripper"):
        return Dimension(name=name, unit="openness", normalize=False)
    if name.startswith("spare"):
        return Dimension(name=name, unit="none", normalize=False)
    return Dimension(name=name, unit="metre" if name[-1] in "xyz" else "radian")


def _numbers(column: str, numbers: np.ndarray) -> np.ndarray:
    """Measured poses as x, y, z, roll, pitch, yaw; the rest as it is."""
    if not column.endswith("pose"):
        return numbers
    return np.concatenate([numbers[:, :3], roll_pitch_yaw(rotation(numbers))], axis=-1)
