"""Berkeley Cable Routing, a Franka Panda that holds a cable, 10 Hz.

State: x, y, z in metres and quaternion x, y, z, w of the end effector. Actions: velocities, of the rotation only the
one about z is used; no gripper. Targets: the next state's pose.
"""

import numpy as np

from data_pipelines.conventions.pose import next_poses, pose_from_quaternion
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="berkeley_cable_routing",
    version="0.1.0",
    robot="Franka Panda",
    cameras={
        "primary": "observation/image",
        "secondary": "observation/top_image",
        "wrist": "observation/wrist45_image",
    },
    languages=("observation/natural_language_instruction",),
    numbers=("action/world_vector", "action/rotation_delta", "observation/robot_state"),
    rate_hertz=10.0,
    action="gripper_velocity",
    delta_unit="unknown",
    proprio="pose_quaternion",
    gripper="none, measured or commanded",
    episodes={"train": 1482, "test": 165},
    unknown=(
        "The unit of the velocities.",
        "The layout of `robot_state` is not described; RDT-1B reads position and quaternion x, y, z, w.",
    ),
    source="TFDS catalog; RDT-1B's preprocessing (layout of the state, rate)",
)
DIFFERENCES = (
    "OpenVLA and Octo take the state for seven joint angles.",
    "OpenVLA and Octo command a closed gripper at every step; the data have no gripper.",
    "Octo replaces the instruction, the same in every episode, by an empty one; here it is kept.",
)


def standardize(raw: Trajectory) -> Trajectory:
    state = raw["observation/robot_state"]
    pose = pose_from_quaternion(state[:, :3], state[:, 3:])
    return {
        "pose": pose,
        "delta": np.concatenate([raw["action/world_vector"], raw["action/rotation_delta"]], axis=1),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    return {
        "joints": raw["observation/robot_state"],
        "delta": np.concatenate([raw["action/world_vector"], raw["action/rotation_delta"]], axis=1),
        "target_gripper": np.zeros(len(raw["action/world_vector"]), np.float32),
    }
