"""BC-Z, Google's Everyday Robots arm at tables, 10 Hz.

State: x, y, z in metres and a rotation as axis times angle in radians, in the robot's frame; `sensed_close`, 1 closed,
about 0.2 open. Actions: the next ten residuals to ADD to position and to the axis-angle vector, of which the first
counts, and the next ten gripper closures. The target pose is that sum; `delta` the rotation from here to there.
"""

import numpy as np

from data_pipelines.conventions.gripper import invert
from data_pipelines.conventions.motion import delta_between
from data_pipelines.conventions.pose import pose_from_euler, pose_from_rotation_vector
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="bc_z",
    version="0.1.0",
    robot="Everyday Robots",
    cameras={"primary": "observation/image"},
    languages=("observation/natural_language_instruction",),
    numbers=(
        "action/future/xyz_residual",
        "action/future/axis_angle_residual",
        "action/future/target_close",
        "observation/present/xyz",
        "observation/present/axis_angle",
        "observation/present/sensed_close",
    ),
    rate_hertz=10.0,
    action="gripper_delta",
    proprio="pose_euler",
    gripper="measured: 1 closed, about 0.2 open, inverted; commanded: 1 closed, absolute, inverted",
    episodes={"train": 39350, "val": 3914},
    source="TFDS catalog; BC-Z (arXiv 2202.02005); rate: RDT-1B",
)
DIFFERENCES = (
    "OpenVLA and Octo take the residual of the axis-angle vector for roll, pitch, yaw.",
    "OpenVLA and Octo take the measured axis-angle vector for Euler angles.",
    "OpenVLA and Octo give the measured gripper as closedness (1 closed) beside commands that are openness (1 open).",
)


def standardize(raw: Trajectory) -> Trajectory:
    position, rotation = raw["observation/present/xyz"], raw["observation/present/axis_angle"]
    moved, turned = raw["action/future/xyz_residual"][:, :3], raw["action/future/axis_angle_residual"][:, :3]
    pose = pose_from_rotation_vector(position, rotation)
    target = pose_from_rotation_vector(position + moved, rotation + turned)
    return {
        "pose": pose,
        "gripper": invert(raw["observation/present/sensed_close"][:, 0]),
        "delta": delta_between(pose, target),
        "target_pose": target,
        "target_gripper": invert(raw["action/future/target_close"][:, 0]),
        "target_valid": np.ones(len(pose), bool),
    }


def upstream(raw: Trajectory) -> Trajectory:
    motion = (raw["action/future/xyz_residual"][:, :3], raw["action/future/axis_angle_residual"][:, :3])
    return standardize(raw) | {
        "pose": pose_from_euler(raw["observation/present/xyz"], raw["observation/present/axis_angle"]),
        "gripper": raw["observation/present/sensed_close"][:, 0],
        "delta": np.concatenate(motion, axis=1),
    }
