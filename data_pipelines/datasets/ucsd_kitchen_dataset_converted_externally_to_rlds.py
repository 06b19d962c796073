"""UCSD Kitchen, an xArm in a kitchen, 2 Hz.

State: seven joint angles, velocities and torques. Actions: the absolute pose, x, y, z in millimetres and roll, pitch,
yaw in degrees (OpenVLA's statistics have means of 410, 117, 192 and -121, -34, 50), the gripper, the episode's end.
`delta` is the motion from the pose that was commanded before; an episode's first step has none.
"""

import numpy as np

from data_pipelines.conventions.motion import delta_between
from data_pipelines.conventions.pose import pose_from_euler
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="ucsd_kitchen_dataset_converted_externally_to_rlds",
    version="0.1.0",
    robot="UFactory xArm7",
    cameras={"primary": "observation/image"},
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=2.0,
    action="gripper_pose",
    proprio="joints",
    gripper="measured: none; commanded: sign not published, not given",
    episodes={"train": 150},
    unknown=(
        "The sign of the gripper: OpenVLA and Octo take 1 for open, RDT-1B for closed.",
        "The order of the angles; xArm's roll, pitch, yaw is taken.",
    ),
    source="TFDS catalog; OpenVLA's published dataset statistics (units); rate: RDT-1B",
)
DIFFERENCES = (
    "OpenVLA and Octo take the absolute pose, in millimetres and degrees, for a motion.",
    "OpenVLA and Octo take the gripper command for openness.",
)


def standardize(raw: Trajectory) -> Trajectory:
    action = raw["action"]
    target = pose_from_euler(action[:, :3] / 1000, np.radians(action[:, 3:6]))
    before = np.concatenate([target[:1], target[:-1]])
    return {
        "joints": raw["observation/state"][:, :7],
        "delta": delta_between(before, target),
        "target_pose": target,
        "delta_valid": np.arange(len(action)) > 0,
    }


def upstream(raw: Trajectory) -> Trajectory:
    action = raw["action"]
    return standardize(raw) | {
        "delta": action[:, :6],
        "target_gripper": action[:, 6],
        "delta_valid": np.ones(len(action), bool),
    }
