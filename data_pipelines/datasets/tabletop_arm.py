"""Demonstrations of the environment `tabletop`, six-axis arm, 5 Hz, by `python -m data_pipelines demo`.

State: six joint angles in radians; the gripper's x, y, z in metres in the arm's base frame; quaternion x, y, z, w;
gripper openness. Action: pose and openness likewise, the absolute ones that were commanded, noise included; every
step has one, the last too.
"""

import numpy as np

from data_pipelines.conventions.pose import pose_from_quaternion
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="tabletop_arm",
    version="1.0.0",
    robot="simulated arm, 6 axes and gripper",
    cameras={"primary": "observation/image_primary", "wrist": "observation/image_wrist"},
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=5.0,
    action="gripper_pose",
    proprio="joints",
    gripper="state and action: 1 open, 0 closed; commands are 0 or 1",
    source="vla_jax/environments/tabletop/arm.py",
)


def standardize(raw: Trajectory) -> Trajectory:
    state, action = raw["observation/state"], raw["action"]
    return {
        "pose": pose_from_quaternion(state[:, 6:9], state[:, 9:13]),
        "gripper": state[:, 13],
        "target_pose": pose_from_quaternion(action[:, :3], action[:, 3:7]),
        "target_gripper": action[:, 7],
        "target_valid": np.ones(len(action), bool),
    }
