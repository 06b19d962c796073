"""The LIBERO suites that OpenVLA re-rendered without no-ops, simulated Franka Panda, 20 Hz.

State: x, y, z in metres and rotation vector of the gripper in the simulator's world frame (the base stands at a
constant place that differs between scenes); the two fingers' joints, 0.04 and -0.04 metres when open. Actions:
robosuite's OSC_POSE, -1..1, then the gripper, -1 opens and 1 closes. Targets: the next state's pose. Pictures were
turned by 180 degrees when the sets were built.
"""

import dataclasses

import numpy as np

from data_pipelines.conventions.gripper import from_width, invert
from data_pipelines.conventions.pose import next_poses, pose_from_euler, pose_from_rotation_vector
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="libero_spatial_no_noops",
    version="1.0.0",
    robot="simulated Franka Panda",
    cameras={"primary": "observation/image", "wrist": "observation/wrist_image"},
    languages=("language_instruction",),
    numbers=("action", "observation/state", "observation/joint_state"),
    rate_hertz=20.0,
    action="gripper_delta",
    delta_unit="-1..1 of 0.05 metres and 0.5 radians; the rotation is a rotation vector",
    proprio="pose_quaternion",
    gripper="state: both fingers' joints in metres, 0.08 apart when open; action: -1 opens, 1 closes",
    unknown=("The number of episodes.",),
    source="OpenVLA-OFT's RLDS builder and regenerate_libero_dataset.py; LIBERO (arXiv 2306.03310); robosuite's "
    "OSC_POSE",
)
ALIASES = (
    *(dataclasses.replace(SPEC, name=f"libero_{suite}_no_noops") for suite in ("object", "goal", "10")),
    dataclasses.replace(
        SPEC,
        name="libero_4_task_suites_no_noops",
        is_verified=False,
        unknown=("The feature tree: taken as that of the four.",),
    ),
)

DIFFERENCES = ("OpenVLA labels the rotation vector of the state Euler angles (POS_EULER).",)
FINGERS_APART_METRES = 0.08


def standardize(raw: Trajectory) -> Trajectory:
    state = raw["observation/state"]
    return _columns(raw, pose_from_rotation_vector(state[:, :3], state[:, 3:6]))


def upstream(raw: Trajectory) -> Trajectory:
    state = raw["observation/state"]
    return _columns(raw, pose_from_euler(state[:, :3], state[:, 3:6]))


def _columns(raw: Trajectory, pose: np.ndarray) -> Trajectory:
    state, action = raw["observation/state"], raw["action"]
    return {
        "pose": pose,
        "gripper": from_width(state[:, 6] - state[:, 7], widest=FINGERS_APART_METRES),
        "joints": raw["observation/joint_state"],
        "delta": action[:, :6],
        "target_gripper": invert(action[:, 6]),
        **next_poses(pose),
    }
