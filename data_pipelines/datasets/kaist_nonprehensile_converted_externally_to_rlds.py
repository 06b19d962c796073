"""KAIST Nonprehensile, a Franka Panda that pushes, topples and turns objects with a closed gripper, 10 Hz.

State: seven joint angles, each followed by its velocity; x, y, z in metres and quaternion x, y, z, w between the
fingers. Actions: residuals of position and of rotation (axis times angle), multiplied from the left, then controller
gains, which have no column. Targets: the pose that the residuals command.
"""

import numpy as np

from data_pipelines.conventions.motion import delta_from_rotation_vector
from data_pipelines.conventions.pose import pose_from_quaternion
from data_pipelines.conventions.targets import every_step, pose_after
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="kaist_nonprehensile_converted_externally_to_rlds",
    version="0.1.0",
    robot="Franka Panda",
    cameras={"primary": "observation/image"},
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=10.0,
    action="gripper_delta",
    proprio="pose_quaternion",
    gripper="never used",
    episodes={"train": 201},
    unknown=("Whether the rotation from the left also moves the position; the residual is taken as added to it.",),
    source="TFDS catalog (layout, order of the quaternion, frame); rate: Open X-Embodiment's overview",
)
DIFFERENCES = (
    "OpenVLA and Octo take the rotation vector of the action for roll, pitch, yaw.",
    "OpenVLA and Octo command a closed gripper at every step; the task has none.",
)


def standardize(raw: Trajectory) -> Trajectory:
    state, action = raw["observation/state"], raw["action"]
    pose = pose_from_quaternion(state[:, 14:17], state[:, 17:21])
    delta = delta_from_rotation_vector(action[:, :3], action[:, 3:6])
    return {
        "pose": pose,
        "joints": state[:, :14:2],
        "delta": delta,
        "target_pose": pose_after(pose, delta),
        "target_valid": every_step(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    closed = np.zeros(len(raw["action"]), np.float32)
    return standardize(raw) | {"delta": raw["action"][:, :6], "target_gripper": closed}
