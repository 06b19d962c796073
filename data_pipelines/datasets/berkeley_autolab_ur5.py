"""Berkeley AUTOLab's UR5 at a table, 5 Hz.

State: six joint angles, x, y, z in metres, quaternion x, y, z, w, `gripper_is_closed` (1 closed), `action_blocked`.
Actions: displacements, and a relative gripper command: 1 close, -1 open, 0 no change, integrated here. Targets: the
next state's pose.
"""

import numpy as np

from data_pipelines.conventions.gripper import integrate_closing, invert
from data_pipelines.conventions.pose import next_poses, pose_from_quaternion
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec, Depth

SPEC = DatasetSpec(
    name="berkeley_autolab_ur5",
    version="0.1.0",
    robot="UR5",
    cameras={"primary": "observation/image", "wrist": "observation/hand_image"},
    depths={"primary": Depth(key="observation/image_with_depth", metres=None)},
    languages=("observation/natural_language_instruction",),
    numbers=(
        "action/world_vector",
        "action/rotation_delta",
        "action/gripper_closedness_action",
        "observation/robot_state",
    ),
    rate_hertz=5.0,
    action="gripper_delta",
    action_range=((-0.02, 0.02),) * 3 + ((-0.07, 0.07),) * 3 + ((-1.0, 1.0),),
    proprio="pose_quaternion",
    gripper="measured: 1 closed, inverted; commanded: 1 close, -1 open, 0 no change, integrated",
    episodes={"train": 896, "test": 104},
    unknown=("The unit of the depth pictures.",),
    source="TFDS catalog; the authors' page on the state, as RDT-1B quotes it; RT-1-X's measured bounds",
)
DIFFERENCES = (
    "OpenVLA and Octo give the measured gripper as closedness (1 closed) beside commands that are openness (1 open).",
)


def standardize(raw: Trajectory) -> Trajectory:
    state = raw["observation/robot_state"]
    pose = pose_from_quaternion(state[:, 6:9], state[:, 9:13])
    return {
        "pose": pose,
        "gripper": invert(state[:, 13]),
        "joints": state[:, :6],
        "delta": np.concatenate([raw["action/world_vector"], raw["action/rotation_delta"]], axis=1),
        "target_gripper": integrate_closing(raw["action/gripper_closedness_action"]),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    return standardize(raw) | {"gripper": raw["observation/robot_state"][:, 13]}
