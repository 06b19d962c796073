"""Berkeley GNM's navigation sets RECON (Jackal), Cory Hall (RC car) and SACSoN, of wheeled robots.

State: x, y and yaw in radians in a frame of each episode's own. Actions: the motion to the next state in the robot's
own frame, without and (`action_angle`) with the turn; nothing at the last step. The only camera looks ahead from the
base; OpenVLA calls it wrist.
"""

import dataclasses

import numpy as np

from data_pipelines.conventions.base import motion_to_next
from data_pipelines.conventions.pose import next_poses, pose_from_euler
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="berkeley_gnm_recon",
    version="0.1.0",
    robot="Clearpath Jackal",
    cameras={"wrist": "observation/image"},
    languages=("language_instruction",),
    numbers=("action_angle", "observation/state"),
    rate_hertz=3.0,
    action="base",
    proprio="base",
    gripper="none",
    episodes={"train": 11834},
    unknown=("Whether positions are metres.",),
    source="TFDS catalog; the authors' conversion code (frame of the actions); rates: Open X-Embodiment's overview",
)
ALIASES = (
    dataclasses.replace(SPEC, name="berkeley_gnm_cory_hall", robot="RC car", rate_hertz=5.0, episodes={"train": 7331}),
    dataclasses.replace(
        SPEC, name="berkeley_gnm_sac_son", robot="wheeled robot", rate_hertz=10.0, episodes={"train": 2955}
    ),
)
DIFFERENCES = (
    "OpenVLA gives the base for a gripper: its place as a pose, its motion as a gripper's displacement.",
    "OpenVLA drops the commanded turn; the published one, too, jumps by a whole turn where yaw wraps.",
    "OpenVLA commands a closed gripper at every step; the robots have none.",
)


def standardize(raw: Trajectory) -> Trajectory:
    base = raw["observation/state"]
    return {
        "base": base,
        "base_delta": motion_to_next(base),
        "target_valid": np.arange(len(base)) < len(base) - 1,
    }


def upstream(raw: Trajectory) -> Trajectory:
    base, action = raw["observation/state"], raw["action_angle"]
    flat, nothing = np.zeros((len(base), 1)), np.zeros((len(base), 4))
    pose = pose_from_euler(np.concatenate([base[:, :2], flat], axis=1), base[:, 2:] * [[0.0, 0.0, 1.0]])
    return {
        "pose": pose,
        "delta": np.concatenate([action[:, :2], nothing], axis=1),
        "target_gripper": nothing[:, 0],
        **next_poses(pose),
    }
