"""The keys of a standardised trajectory: what every dataset's `standardize` may give, with units and frames.

Axes: time. Poses are of the gripper in the robot's base frame: x, y, z in metres, then a unit quaternion
x, y, z, w (scipy's order). Gripper openness: 1 open, 0 closed, for every robot; a `DatasetSpec` says what
the raw sign was. A dataset gives the keys that it has; an action space that needs others refuses it.
"""

import dataclasses

import numpy as np

Trajectory = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Column:
    shape: tuple[int, ...]
    """Of one step."""
    dtype: str
    meaning: str


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
    "target_valid": Column((), "bool", "False where there is no target: the last step when targets are next poses"),
    "finite": Column((), "bool", "False where a number above, or one that it was made from, is NaN or infinite"),
    "raw_finite": Column((), "bool", "False where a raw number of this very step is NaN or infinite"),
}
WRITTEN_BY_TABLE = ("finite", "raw_finite")
"""Never given by a dataset."""
