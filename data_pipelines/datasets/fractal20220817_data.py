"""RT-1's kitchen data (`fractal20220817_data`), Google's mobile manipulator, 3 Hz.

State: `base_pose_tool_reached`, x, y, z in metres and quaternion x, y, z, w in the robot base frame; `gripper_closed`,
1 closed. Actions: displacements in the base frame, roll, pitch, yaw; a relative gripper command (positive closes),
integrated here; motions of the base. Targets: the next state's pose, since the commanded displacements are not
absolute.
"""

import numpy as np

from data_pipelines.conventions.gripper import integrate_closing, invert
from data_pipelines.conventions.pose import next_poses, pose_from_quaternion
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="fractal20220817_data",
    version="0.1.0",
    robot="Everyday Robots",
    cameras={"primary": "observation/image"},
    languages=("observation/natural_language_instruction",),
    numbers=(
        "action/world_vector",
        "action/rotation_delta",
        "action/gripper_closedness_action",
        "action/base_displacement_vector",
        "action/base_displacement_vertical_rotation",
        "observation/base_pose_tool_reached",
        "observation/gripper_closed",
    ),
    rate_hertz=3.0,
    action="gripper_delta",
    proprio="pose_quaternion",
    gripper="measured: 1 closed, inverted; commanded: relative, above 0.1 close, below -0.1 open, integrated",
    episodes={"train": 87212},
    source="RT-1 (arXiv 2212.06817); the TFDS catalog's feature tree; OpenVLA's standardisation of the gripper",
)
DIFFERENCES = (
    "OpenVLA and Octo give the measured gripper as closedness (1 closed) beside commands that are openness (1 open).",
)


def standardize(raw: Trajectory) -> Trajectory:
    tool = raw["observation/base_pose_tool_reached"]
    pose = pose_from_quaternion(tool[:, :3], tool[:, 3:])
    base = (raw["action/base_displacement_vector"], raw["action/base_displacement_vertical_rotation"])
    return {
        "pose": pose,
        "gripper": invert(raw["observation/gripper_closed"][:, 0]),
        "delta": np.concatenate([raw["action/world_vector"], raw["action/rotation_delta"]], axis=1),
        "target_gripper": integrate_closing(raw["action/gripper_closedness_action"][:, 0]),
        "base_delta": np.concatenate(base, axis=1),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    return standardize(raw) | {"gripper": raw["observation/gripper_closed"][:, 0]}
