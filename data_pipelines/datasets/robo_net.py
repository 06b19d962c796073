"""RoboNet, five kinds of arms that play at random in bins, 1 Hz.

State: x, y, z as fractions of a workspace whose bounds are not in the tree, the wrist's yaw, the gripper: no pose in
metres can be made of it, and none is given. Actions: displacements of the set point in metres, the wrist's yaw, and
the gripper, 1 closed, -1 open (RoboNet's autograsp: the upper bound closes).
"""

import numpy as np

from data_pipelines.conventions.gripper import from_signed
from data_pipelines.conventions.pose import next_poses, pose_from_euler
from data_pipelines.conventions.targets import every_step
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="robo_net",
    version="0.1.0",
    robot="Sawyer, WidowX, KUKA iiwa, Baxter or Franka Panda, named in episode_metadata/robot",
    cameras={
        "primary": "observation/image",
        "secondary": "observation/image1",
        "tertiary": "observation/image2",
    },
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=1.0,
    action="gripper_delta",
    delta_unit="metres; the yaw in the robot's own unit",
    proprio="position",
    gripper="measured: in the robot's own unit, not given; commanded: 1 closed, -1 open",
    episodes={"train": 82775},
    unknown=(
        "The workspace's bounds, and with them the measured pose in metres and the measured openness.",
        "The yaw's unit (the published bounds of Baxter and KUKA are degrees, those of Sawyer radians) and its sign.",
        "The sign of the gripper command, which the builder makes of the next state: RDT-1B and RoboNet's own loader "
        "read 1 as closed, OpenVLA and Octo as open.",
    ),
    source="the dataset's TFDS builder; SudeepDasari/RoboNet and visual_foresight (normalised states, autograsp); "
    "RDT-1B's preprocessing (gripper, rate)",
)
DIFFERENCES = (
    "OpenVLA and Octo put the yaw of state and action into the slot of roll.",
    "OpenVLA and Octo read the fractions of the workspace as metres.",
    "OpenVLA and Octo take the gripper command as it stands: 1 open, -1 closed, below the range of openness.",
    "OpenVLA-OFT's configuration asks for `EEF_state`, its transform writes `eef_state`: proprio fails.",
)


def standardize(raw: Trajectory) -> Trajectory:
    action = raw["action"]
    delta = np.zeros((len(action), 6), np.float32)
    delta[:, :3], delta[:, 5] = action[:, :3], action[:, 3]
    return {
        "delta": delta,
        "target_gripper": from_signed(action[:, 4], opens=-1),
        "target_valid": every_step(action),
    }


def upstream(raw: Trajectory) -> Trajectory:
    state, action = raw["observation/state"], raw["action"]
    nothing = np.zeros((len(action), 2), np.float32)
    pose = pose_from_euler(state[:, :3], np.concatenate([state[:, 3:4], nothing], axis=1))
    return {
        "pose": pose,
        "gripper": state[:, 4],
        "delta": np.concatenate([action[:, :4], nothing], axis=1),
        "target_gripper": action[:, 4],
        **next_poses(pose),
    }
