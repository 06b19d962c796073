"""FMB, the Functional Manipulation Benchmark, Franka Panda, 10 Hz: `fmb/0.0.1` of Open X-Embodiment.

State: x, y, z in metres and quaternion x, y, z, w in the robot base frame; the gripper's commanded state, 1 closed;
seven joint angles. Actions: displacement and extrinsic x-y-z Euler angles about the base axes, then the gripper, 1
closes. Targets: the next state's pose.
"""

import dataclasses

import numpy as np

from data_pipelines.conventions.gripper import clip_openness, invert
from data_pipelines.conventions.pose import next_poses, pose_from_quaternion
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec, Depth

_CAMERAS = {"primary": "side_1", "secondary": "side_2", "wrist": "wrist_1", "second_wrist": "wrist_2"}

SPEC = DatasetSpec(
    name="fmb_dataset",
    version="0.0.1",
    robot="Franka Panda",
    cameras={slot: f"observation/image_{name}" for slot, name in _CAMERAS.items()},
    depths={slot: Depth(key=f"observation/image_{name}_depth", metres=None) for slot, name in _CAMERAS.items()},
    languages=("language_instruction",),
    numbers=("action", "observation/eef_pose", "observation/state_gripper_pose", "observation/joint_pos"),
    rate_hertz=10.0,
    action="gripper_delta",
    delta_unit="unknown",
    proprio="pose_quaternion",
    gripper="state and action: 1 closed, 0 open, inverted",
    episodes={"train": 1804},
    unknown=(
        "The unit of the actions: the authors' controller clips them at 0.06 metres and 0.25 radians, but whether they "
        "were stored before a scale is not said.",
        "The unit of the depth pictures.",
        "The order of the colour channels: a published fork of OpenVLA's code reverses them.",
        "The number of episodes: the catalog says 1,804, a copy of the bucket holds 8,611.",
    ),
    source="the TFDS catalog's feature tree of `fmb`; github.com/rail-berkeley/fmb: dataset builder, robot_infra",
)
ALIASES = (dataclasses.replace(SPEC, name="fmb"),)

DIFFERENCES = (
    "OpenVLA and Octo read gripper state and action as 1 open; the authors' builder says 1 for close.",
    "OpenVLA and Octo label the quaternion of the state Euler angles (POS_EULER).",
)


def standardize(raw: Trajectory) -> Trajectory:
    return _columns(raw) | {
        "gripper": invert(raw["observation/state_gripper_pose"]),
        "target_gripper": invert(raw["action"][:, 6]),
    }


def upstream(raw: Trajectory) -> Trajectory:
    return _columns(raw) | {
        "gripper": clip_openness(raw["observation/state_gripper_pose"]),
        "target_gripper": clip_openness(raw["action"][:, 6]),
    }


def _columns(raw: Trajectory) -> Trajectory:
    measured: np.ndarray = raw["observation/eef_pose"]
    pose = pose_from_quaternion(measured[:, :3], measured[:, 3:])
    return {
        "pose": pose,
        "delta": raw["action"][:, :6],
        "joints": raw["observation/joint_pos"],
        **next_poses(pose),
    }
