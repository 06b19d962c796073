"""The keys of a standardised trajectory: what every dataset's `standardize` may give, with units and frames.

Axes: time. Poses are of the gripper in the robot's base frame: x, y, z in metres, then a unit quaternion
x, y, z, w (scipy's order). Gripper openness: 1 open, 0 closed, for every robot; a `DatasetSpec` says what
the raw sign was. A dataset gives the keys that it has; an action space that needs others refuses it. A robot of two
arms gives its right one, or the one that it works with, without a prefix, the other as `left_...`.
"""

import dataclasses

import numpy as np

Trajectory = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Column:
    shape: tuple[int | None, ...]
    """Of one step; None: a width of the dataset's own."""
    dtype: str
    meaning: str

    def fits(self, shape: tuple[int, ...], num_steps: int) -> bool:
        """Whether an array of this shape may be the column of so many steps."""
        expected = (num_steps, *self.shape)
        return len(shape) == len(expected) and all(e in (None, n) for n, e in zip(shape, expected))


COLUMNS = {
    "pose": Column((7,), "float32", "measured gripper pose, base frame: metres, quaternion xyzw"),
    "gripper": Column((), "float32", "measured openness, 0..1"),
    "target_pose": Column(
        (7,),
        "float32",
        "the absolute gripper pose that the action at this step commands, as `pose`; without commanded poses, "
        "the pose measured at the next step",
    ),
    "target_gripper": Column((), "float32", "the absolute openness that the action at this step commands, 0..1"),
    "delta": Column(
        (6,),
        "float32",
        "the commanded motion as published: x, y, z, then roll, pitch, yaw; metres and radians, or what the SPEC's "
        "`delta_unit` says",
    ),
    "joints": Column((None,), "float32", "measured joint angles in radians (metres where a joint slides), base first"),
    "target_joints": Column((None,), "float32", "the absolute joint angles that the action commands, as `joints`"),
    "joint_velocities": Column((None,), "float32", "the joint velocities that the action commands, per second"),
    "left_pose": Column((7,), "float32", "as `pose`, of a second arm"),
    "left_gripper": Column((), "float32", "as `gripper`, of a second arm"),
    "left_delta": Column((6,), "float32", "as `delta`, of a second arm"),
    "left_target_pose": Column((7,), "float32", "as `target_pose`, of a second arm"),
    "left_target_gripper": Column((), "float32", "as `target_gripper`, of a second arm"),
    "left_joints": Column((None,), "float32", "as `joints`, of a second arm"),
    "left_target_joints": Column((None,), "float32", "as `target_joints`, of a second arm"),
    "base": Column((3,), "float32", "measured place of a mobile base: x, y in metres, yaw in radians"),
    "base_delta": Column((3,), "float32", "the commanded motion of the base: x, y in metres, yaw in radians"),
    "target_valid": Column(
        (),
        "bool",
        "False where there is no target: the last step when targets are next poses; True everywhere where a dataset "
        "does not give it",
    ),
    "delta_valid": Column(
        (),
        "bool",
        "False where `delta`, or the `target_gripper` beside it, is no command: the last step when it is made of the "
        "next state. Where a dataset does not give it, True everywhere; without `delta`, as `target_valid`",
    ),
    "finite": Column((), "bool", "False where a number above, or one that it was made from, is NaN or infinite"),
    "raw_finite": Column((), "bool", "False where a raw number of this very step is NaN or infinite"),
}
WRITTEN_BY_TABLE = ("finite", "raw_finite")
"""Never given by a dataset."""
