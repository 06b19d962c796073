"""RT-1's kitchen data (`fractal20220817_data`), Google's mobile manipulator, 3 Hz.

State: `base_pose_tool_reached`, x, y, z in metres and quaternion x, y, z, w in the robot base frame; `gripper_closed`,
1 closed. Actions: displacements in the base frame, and a relative gripper command (positive closes), integrated here.
Targets: the next state's pose, since the commanded displacements are not absolute.
"""

import numpy as np

from data_pipelines.conventions.gripper import integrate_closing
from data_pipelines.conventions.pose import next_poses, pose_from_quaternion
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="fractal20220817_data",
    version="0.1.0",
    robot="Google mobile manipulator",
    cameras={"primary": "observation/image"},
    languages=("observation/natural_language_instruction",),
    numbers=(
        "observation/base_pose_tool_reached",
        "observation/gripper_closed",
        "action/gripper_closedness_action",
        "action/world_vector",
        "action/rotation_delta",
    ),
    rate_hertz=3.0,
    action="gripper_delta",
    proprio="pose_quaternion",
    gripper="measured: 1 closed, inverted; commanded: relative, above 0.1 close, below -0.1 open, integrated",
    source="RT-1 (arXiv 2212.06817); the TFDS catalog's feature tree; OpenVLA's standardisation of the gripper",
)


def standardize(raw: Trajectory) -> Trajectory:
    tool = raw["observation/base_pose_tool_reached"]
    pose = pose_from_quaternion(tool[:, :3], tool[:, 3:])
    return {
        "pose": pose,
        "gripper": np.clip(1.0 - raw["observation/gripper_closed"][:, 0], 0.0, 1.0),
        "target_gripper": integrate_closing(raw["action/gripper_closedness_action"][:, 0]),
        **next_poses(pose),
    }
