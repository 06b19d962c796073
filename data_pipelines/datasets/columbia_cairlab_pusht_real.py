"""Columbia's real Push-T, a UR5 with a pushing tool in a plane, 10 Hz.

State: x, y of the end effector; poses lie at height 0. Actions: displacements, and a relative gripper command: 1
close, -1 open, 0 no change, integrated here. Targets: the next state's pose.
"""

import numpy as np

from data_pipelines.conventions.gripper import integrate_closing
from data_pipelines.conventions.pose import next_poses, planar_pose
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="columbia_cairlab_pusht_real",
    version="0.1.0",
    robot="UR5",
    cameras={"primary": "observation/image", "wrist": "observation/wrist_image"},
    languages=("observation/natural_language_instruction",),
    numbers=(
        "action/world_vector",
        "action/rotation_delta",
        "action/gripper_closedness_action",
        "observation/robot_state",
    ),
    rate_hertz=10.0,
    action="gripper_delta",
    delta_unit="unknown",
    proprio="position",
    gripper="measured: none; commanded: 1 close, -1 open, 0 no change, integrated",
    episodes={"train": 122, "test": 14},
    unknown=(
        "The unit of positions and displacements; metres and radians are taken for the state.",
        "The height and the rotation of the end effector.",
    ),
    source="TFDS catalog; rate: RDT-1B",
)
DIFFERENCES = ("OpenVLA and Octo take the gripper command (1 close, -1 open, 0 no change) for openness as it stands.",)


def standardize(raw: Trajectory) -> Trajectory:
    pose = planar_pose(raw["observation/robot_state"])
    return {
        "pose": pose,
        "delta": np.concatenate([raw["action/world_vector"], raw["action/rotation_delta"]], axis=1),
        "target_gripper": integrate_closing(raw["action/gripper_closedness_action"]),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    return standardize(raw) | {"target_gripper": raw["action/gripper_closedness_action"]}
