"""TACO Play, a Franka Panda played with in a kitchen, 15 Hz.

State: x, y, z in metres and Euler angles x, y, z in the robot's base frame; gripper width in metres; seven joint
angles; the last gripper action. Actions: the absolute desired pose, and the same as a motion times 50 (positions) and
20 (angles), undone here. Gripper commands are -1 closed, 1 open, as the authors' README says; the TFDS catalog says
the opposite, and calls the angles yaw, pitch, roll, though RT-1-X measured -3.2..3.2 for the first of them, which is
the roll of a hand that points down.
"""

import numpy as np

from data_pipelines.conventions.gripper import from_signed, from_width
from data_pipelines.conventions.pose import pose_from_euler
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec, Depth

WIDEST_METRES = 0.08
SCALE = np.array([50, 50, 50, 20, 20, 20], np.float32)
SPEC = DatasetSpec(
    name="taco_play",
    version="0.1.0",
    robot="Franka Panda",
    cameras={"primary": "observation/rgb_static", "wrist": "observation/rgb_gripper"},
    depths={
        "primary": Depth(key="observation/depth_static", metres=None),
        "wrist": Depth(key="observation/depth_gripper", metres=None),
    },
    languages=("observation/natural_language_instruction", "observation/structured_language_instruction"),
    numbers=("action/actions", "action/rel_actions_world", "observation/robot_obs"),
    rate_hertz=15.0,
    action="gripper_pose",
    proprio="pose_euler",
    gripper="measured: width in metres over 0.08; commanded: -1 closed, 1 open",
    episodes={"train": 3242, "test": 361},
    unknown=(
        "The unit of the depth pictures.",
        "Whether the catalog's contrary sign of the gripper (-1 open) is a slip; the authors' README is followed.",
    ),
    source="TFDS catalog; the authors' README (ErickRosete/tacorl, dataset); RT-1-X's measured bounds; rate: RDT-1B",
)
DIFFERENCES = (
    "OpenVLA and Octo read `robot_obs[7]`, the first joint angle, as the measured gripper, which is `robot_obs[6]`.",
    "OpenVLA and Octo leave the motion times 50 and 20.",
)


def standardize(raw: Trajectory) -> Trajectory:
    state, command = raw["observation/robot_obs"], raw["action/actions"]
    return {
        "pose": pose_from_euler(state[:, :3], state[:, 3:6]),
        "gripper": from_width(state[:, 6], widest=WIDEST_METRES),
        "joints": state[:, 7:14],
        "delta": raw["action/rel_actions_world"][:, :6] / SCALE,
        "target_pose": pose_from_euler(command[:, :3], command[:, 3:6]),
        "target_gripper": from_signed(raw["action/rel_actions_world"][:, 6], opens=1),
        "target_valid": np.ones(len(state), bool),
    }


def upstream(raw: Trajectory) -> Trajectory:
    motion = raw["action/rel_actions_world"]
    return standardize(raw) | {
        "gripper": raw["observation/robot_obs"][:, 7],
        "delta": motion[:, :6],
        "target_gripper": np.clip(motion[:, 6], 0, 1),
    }
