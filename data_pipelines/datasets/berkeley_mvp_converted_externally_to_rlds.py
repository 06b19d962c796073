"""Berkeley MVP, an xArm 7 with a wrist camera that reaches, pushes and picks, 5 Hz.

State: seven joint angles, x, y, z in metres and quaternion x, y, z, w of the gripper, the gripper, true when closed.
Actions: the joint angles measured at the next step minus these, and the gripper measured there; nothing at the last
step. Targets: the next state's pose and joint angles.
"""

import numpy as np

from data_pipelines.conventions.gripper import invert
from data_pipelines.conventions.pose import next_poses, pose_from_quaternion
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="berkeley_mvp_converted_externally_to_rlds",
    version="0.1.0",
    robot="UFactory xArm7",
    cameras={"wrist": "observation/hand_image"},
    languages=("language_instruction",),
    numbers=("action", "observation/pose", "observation/joint_pos", "observation/gripper"),
    rate_hertz=5.0,
    action="joint_position",
    proprio="pose_quaternion",
    gripper="measured and commanded: 1 closed, 0 open, inverted",
    episodes={"train": 480},
    source="TFDS catalog; the authors' conversion code (actions, order of the quaternion); MVP (arXiv 2210.03109); "
    "rate: Open X-Embodiment's overview",
)
DIFFERENCES = (
    "OpenVLA and Octo leave the gripper as closedness, measured and commanded.",
    "OpenVLA and Octo give joint differences, masked as relative; here targets are absolute joint angles.",
    "OpenVLA joins the measured gripper, one number a step, to seven as if it had a second axis: proprio fails.",
)


def standardize(raw: Trajectory) -> Trajectory:
    joints, action = raw["observation/joint_pos"], raw["action"]
    pose = pose_from_quaternion(raw["observation/pose"][:, :3], raw["observation/pose"][:, 3:])
    return {
        "pose": pose,
        "gripper": invert(raw["observation/gripper"]),
        "joints": joints,
        "target_joints": joints + action[:, :7],
        "target_gripper": invert(action[:, 7]),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    return standardize(raw) | {
        "gripper": raw["observation/gripper"].astype(np.float32),
        "target_joints": raw["action"][:, :7],
        "target_gripper": raw["action"][:, 7],
    }
