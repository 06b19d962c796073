"""DROID, a Franka Panda with a Robotiq 2F-85 in many buildings, 15 Hz.

State: x, y, z in metres, roll, pitch, yaw in radians (extrinsic x-y-z), seven joint angles, the gripper, 1 closed.
Actions, side by side: absolute pose, joint angles and gripper; velocities in -1..1, which over one step are
up to 0.075 metres and 0.15 radians, and 0.2 radians of a joint. (The catalog calls `action` joint velocities.)
"""

import dataclasses

import numpy as np

from data_pipelines.conventions.gripper import invert
from data_pipelines.conventions.pose import pose_from_euler
from data_pipelines.conventions.targets import every_step
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

RATE_HERTZ = 15.0
METRES, RADIANS, JOINT_RADIANS = 0.075, 0.15, 0.2
"""Of one step at velocity 1."""
SPEC = DatasetSpec(
    name="droid",
    version="1.0.1",
    robot="Franka Panda, Robotiq 2F-85",
    cameras={
        "primary": "observation/exterior_image_1_left",
        "secondary": "observation/exterior_image_2_left",
        "wrist": "observation/wrist_image_left",
    },
    languages=("language_instruction", "language_instruction_2", "language_instruction_3"),
    numbers=(
        "action_dict/cartesian_position",
        "action_dict/cartesian_velocity",
        "action_dict/gripper_position",
        "action_dict/joint_position",
        "action_dict/joint_velocity",
        "observation/cartesian_position",
        "observation/gripper_position",
        "observation/joint_position",
    ),
    rate_hertz=RATE_HERTZ,
    action="gripper_velocity",
    proprio="pose_euler",
    gripper="measured and commanded: 1 closed, 0 open, inverted",
    episodes={"train": 95658},
    source="DROID (arXiv 2403.12945), its documentation and its code (Euler angles, gripper, velocities)",
)
ALIASES = (
    dataclasses.replace(
        SPEC,
        name="droid_wipe",
        version="unknown",
        cameras={"primary": "observation/exterior_image_2_left", "wrist": "observation/wrist_image_left"},
        episodes={},
        unknown=("Everything but the keys that OpenVLA's code reads: this fine-tuning set was not released.",),
        is_verified=False,
    ),
)
DIFFERENCES = (
    "OpenVLA gives commanded velocities, -1..1, for displacements.",
    "OpenVLA leaves the measured gripper as closedness beside commands that are openness.",
    "OpenVLA swaps the two exterior cameras of half the episodes at random; here each keeps its slot.",
    "OpenVLA's configuration calls the state, which is roll, pitch, yaw, a quaternion.",
    "OpenVLA draws only `language_instruction`; here each of the three counts.",
)


def standardize(raw: Trajectory) -> Trajectory:
    state, commanded = raw["observation/cartesian_position"], raw["action_dict/cartesian_position"]
    velocity = raw["action_dict/cartesian_velocity"]
    joint_velocity = raw["action_dict/joint_velocity"]
    return {
        "pose": pose_from_euler(state[:, :3], state[:, 3:]),
        "gripper": invert(raw["observation/gripper_position"][:, 0]),
        "joints": raw["observation/joint_position"],
        "delta": np.concatenate([_limited(velocity[:, :3]) * METRES, _limited(velocity[:, 3:]) * RADIANS], axis=1),
        "target_pose": pose_from_euler(commanded[:, :3], commanded[:, 3:]),
        "target_gripper": invert(raw["action_dict/gripper_position"][:, 0]),
        "target_joints": raw["action_dict/joint_position"],
        "joint_velocities": joint_velocity
        / np.maximum(np.abs(joint_velocity).max(1, keepdims=True), 1.0)
        * (JOINT_RADIANS * RATE_HERTZ),
        "target_valid": every_step(state),
    }


def _limited(velocity: np.ndarray) -> np.ndarray:
    """As the robot's controller does: no vector is longer than 1."""
    return velocity / np.maximum(np.linalg.norm(velocity, axis=1, keepdims=True), 1.0)


def upstream(raw: Trajectory) -> Trajectory:
    return standardize(raw) | {
        "gripper": raw["observation/gripper_position"][:, 0],
        "delta": raw["action_dict/cartesian_velocity"],
        "target_gripper": 1 - raw["action_dict/gripper_position"][:, 0],
    }
