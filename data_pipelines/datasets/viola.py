"""Austin VIOLA, a Franka Panda at a table, 20 Hz.

State: a homogeneous matrix of the end effector, column after column; seven joint angles; gripper width in metres.
Actions: displacements scaled to -1..1, and a gripper command, 1 close, -1 open. Targets: the next state's pose.
"""

import numpy as np

from data_pipelines.conventions.gripper import from_width, invert
from data_pipelines.conventions.pose import next_poses, pose_from_column_major
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

WIDEST_METRES = 0.08
SPEC = DatasetSpec(
    name="viola",
    version="0.1.0",
    robot="Franka Panda",
    cameras={"primary": "observation/agentview_rgb", "wrist": "observation/eye_in_hand_rgb"},
    languages=("observation/natural_language_instruction",),
    numbers=(
        "action/world_vector",
        "action/rotation_delta",
        "action/gripper_closedness_action",
        "observation/ee_states",
        "observation/joint_states",
        "observation/gripper_states",
    ),
    rate_hertz=20.0,
    action="gripper_delta",
    action_range=((-1.0, 1.0),) * 3 + ((-0.4, 0.4),) * 3 + ((-1.0, 1.0),),
    delta_unit="unknown",
    proprio="joints",
    gripper="measured: width in metres over 0.08; commanded: 1 closed, -1 and the padding's 0 open, inverted",
    episodes={"train": 135, "test": 15},
    unknown=("The metres and radians of a displacement of 1, and how `rotation_delta` writes a rotation.",),
    source="TFDS catalog; RT-1-X's measured bounds; RDT-1B's preprocessing (order of the matrix, rate)",
)
DIFFERENCES = (
    "OpenVLA and Octo give the measured gripper as a width in metres.",
    "Octo replaces the instruction by an empty one; here it is kept.",
)


def standardize(raw: Trajectory) -> Trajectory:
    pose = pose_from_column_major(raw["observation/ee_states"])
    return {
        "pose": pose,
        "gripper": from_width(raw["observation/gripper_states"][:, 0], widest=WIDEST_METRES),
        "joints": raw["observation/joint_states"],
        "delta": np.concatenate([raw["action/world_vector"], raw["action/rotation_delta"]], axis=1),
        "target_gripper": invert(raw["action/gripper_closedness_action"]),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    return standardize(raw) | {"gripper": raw["observation/gripper_states"][:, 0]}
