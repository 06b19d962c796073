"""U-Tokyo xArm Bimanual, two xArm 7 that unfold and reach for a towel, 10 Hz.

State: x, y, z in metres with three angles in radians of each arm. Actions: absolute poses in the same layout with a
gripper each, the left arm before the right one. Order of the angles as in utokyo_xarm_pick_and_place.
"""

import numpy as np

from data_pipelines.conventions.gripper import invert
from data_pipelines.conventions.motion import delta_between
from data_pipelines.conventions.pose import pose_from_euler
from data_pipelines.conventions.targets import every_step
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="utokyo_xarm_bimanual_converted_externally_to_rlds",
    version="0.1.0",
    robot="two UFactory xArm7",
    cameras={"primary": "observation/image"},
    languages=("language_instruction",),
    numbers=("action", "observation/pose_l", "observation/pose_r"),
    rate_hertz=10.0,
    action="gripper_pose",
    proprio="pose_euler",
    gripper="measured: none; commanded: 1 closed, 0 open, inverted",
    episodes={"train": 64, "val": 6},
    unknown=("The sign of the grippers: RDT-1B reads 1 as closed, OpenVLA and Octo as open; RDT-1B's is taken.",),
    source="TFDS catalog; the authors' conversion code; RDT-1B's published statistics of action_l and action_r "
    "(absolute, metres, order of the angles, rate)",
)
DIFFERENCES = (
    "OpenVLA and Octo take the absolute pose in the action for a displacement.",
    "OpenVLA and Octo read the gripper command 1 as open.",
    "OpenVLA and Octo give the right arm only; Octo asks for `end_effector_pose`, which the tree lacks.",
)


def standardize(raw: Trajectory) -> Trajectory:
    action = raw["action"]
    return {
        **_arm(raw["observation/pose_r"], action[:, 7:], ""),
        **_arm(raw["observation/pose_l"], action[:, :7], "left_"),
        "target_valid": every_step(action),
    }


def _arm(state: np.ndarray, action: np.ndarray, prefix: str) -> Trajectory:
    pose, target_pose = pose_from_euler(state[:, :3], state[:, 3:6]), pose_from_euler(action[:, :3], action[:, 3:6])
    return {
        f"{prefix}pose": pose,
        f"{prefix}delta": delta_between(pose, target_pose),
        f"{prefix}target_pose": target_pose,
        f"{prefix}target_gripper": invert(action[:, 6]),
    }


def upstream(raw: Trajectory) -> Trajectory:
    right = {key: column for key, column in standardize(raw).items() if not key.startswith("left_")}
    return right | {"delta": raw["action"][:, 7:13], "target_gripper": raw["action"][:, 13]}
