"""QT-Opt's grasps (`kuka`), Kuka iiwa arms over a bin, in the action format of RT-1.

State, stored zlib-compressed: `clip_function_input/base_pose_tool_reached`, x, y, z in metres and quaternion x, y, z,
w; `gripper_closed`, 1 closed. Actions: displacements in the base frame, a relative gripper command (positive closes),
integrated here. Targets: the next state's pose. The arms are fixed: the motions of a base are left out.
"""

import numpy as np

from data_pipelines.conventions.gripper import integrate_closing, invert
from data_pipelines.conventions.pose import next_poses, pose_from_quaternion
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="kuka",
    version="0.1.0",
    robot="Kuka iiwa",
    cameras={"primary": "observation/image"},
    languages=("observation/natural_language_instruction",),
    numbers=(
        "action/world_vector",
        "action/rotation_delta",
        "action/gripper_closedness_action",
        "observation/clip_function_input/base_pose_tool_reached",
        "observation/gripper_closed",
    ),
    rate_hertz=10.0,
    action="gripper_delta",
    proprio="pose_quaternion",
    gripper="measured: 1 closed, inverted; commanded: relative, above 0.1 close, below -0.1 open, integrated",
    episodes={"train": 580392},
    unknown=(
        "Whether `rotation_delta` is roll, pitch, yaw as in RT-1's data, whose format it shares; taken so.",
        "Which tensors besides the two that published code decompresses are stored compressed.",
    ),
    source="TFDS catalog; OpenVLA's and Octo's transforms; rate: Open X-Embodiment's overview, as listed by RDT-1B",
)
DIFFERENCES = (
    "OpenVLA and Octo give the measured gripper as closedness (1 closed) beside commands that are openness (1 open).",
    "Octo replaces the instruction, the same in every episode, by an empty one; here it is kept.",
)


def standardize(raw: Trajectory) -> Trajectory:
    tool = raw["observation/clip_function_input/base_pose_tool_reached"]
    pose = pose_from_quaternion(tool[:, :3], tool[:, 3:])
    return {
        "pose": pose,
        "gripper": invert(raw["observation/gripper_closed"][:, 0]),
        "delta": np.concatenate([raw["action/world_vector"], raw["action/rotation_delta"]], axis=1),
        "target_gripper": integrate_closing(raw["action/gripper_closedness_action"][:, 0]),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    return standardize(raw) | {"gripper": raw["observation/gripper_closed"][:, 0]}
