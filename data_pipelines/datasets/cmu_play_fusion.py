"""CMU PlayFusion, a Franka Panda that plays in toy kitchens, 5 Hz.

State: seven joint angles, gripper width in metres; no pose. Actions: displacements, a turn as quaternion, the gripper,
the episode's end.
"""

import numpy as np

from data_pipelines.conventions.gripper import clip_openness, from_width
from data_pipelines.conventions.motion import delta_from_quaternion
from data_pipelines.conventions.targets import every_step
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

WIDEST_METRES = 0.085
SPEC = DatasetSpec(
    name="cmu_play_fusion",
    version="0.1.0",
    robot="Franka Panda",
    cameras={"primary": "observation/image"},
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=5.0,
    action="gripper_delta",
    proprio="joints",
    gripper="measured: width in metres over 0.085; commanded: 1 open, 0 closed, as RDT-1B reads it",
    episodes={"train": 576},
    unknown=(
        "The order of the quaternion; x, y, z, w is taken, as in RDT-1B.",
        "The sign of the gripper, beyond RDT-1B's reading.",
        "The frame and unit of displacements; metres are taken.",
    ),
    source="TFDS catalog and the authors' TFDS builder; RDT-1B's preprocessing (gripper, width, rate)",
)
DIFFERENCES = (
    "OpenVLA and Octo take the last number of the action, the episode's end, for the gripper.",
    "OpenVLA and Octo take the quaternion's last two numbers and the gripper for roll, pitch, yaw.",
    "OpenVLA and Octo give the measured gripper as a width in metres.",
)


def standardize(raw: Trajectory) -> Trajectory:
    state, action = raw["observation/state"], raw["action"]
    return {
        "gripper": from_width(state[:, 7], widest=WIDEST_METRES),
        "joints": state[:, :7],
        "delta": delta_from_quaternion(action[:, :3], action[:, 3:7]),
        "target_gripper": clip_openness(action[:, 7]),
        "target_valid": every_step(action),
    }


def upstream(raw: Trajectory) -> Trajectory:
    action = raw["action"]
    return standardize(raw) | {
        "gripper": raw["observation/state"][:, 7],
        "delta": np.concatenate([action[:, :3], action[:, 5:8]], axis=1),
        "target_gripper": action[:, 8],
    }
