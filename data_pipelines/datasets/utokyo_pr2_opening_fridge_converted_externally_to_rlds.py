"""U-Tokyo PR2 Opening Fridge, a PR2's arm at a refrigerator, and Tabletop Manipulation, the same arm with bread,
grapes and cloth, 10 Hz.

State: x, y, z in millimetres, roll, pitch, yaw in radians, gripper width in millimetres. Actions: displacements in
millimetres with roll, pitch, yaw, a gripper command, the episode's end. Targets: the next state's pose.
"""

import dataclasses

import numpy as np

from data_pipelines.conventions.gripper import from_width, invert
from data_pipelines.conventions.pose import next_poses, pose_from_euler
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

METRES = 0.001
WIDEST_MILLIMETRES = 86.66
SPEC = DatasetSpec(
    name="utokyo_pr2_opening_fridge_converted_externally_to_rlds",
    version="0.1.0",
    robot="PR2",
    cameras={"primary": "observation/image"},
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=10.0,
    action="gripper_delta",
    proprio="pose_euler",
    gripper="measured: width in millimetres over 86.66; commanded: 1 closed, 0 open, inverted",
    episodes={"train": 64, "val": 16},
    unknown=(
        "The sign of the gripper command: RDT-1B reads 1 as closed, OpenVLA and Octo as open; RDT-1B's is taken.",
        "Whether actions are displacements, as RDT-1B, OpenVLA and Octo read them; the catalog only says positions.",
    ),
    source="TFDS catalog; RDT-1B's preprocessing (millimetres, width, rate)",
)
ALIASES = (
    dataclasses.replace(
        SPEC,
        name="utokyo_pr2_tabletop_manipulation_converted_externally_to_rlds",
        episodes={"train": 192, "val": 48},
    ),
)
DIFFERENCES = (
    "OpenVLA and Octo leave positions, displacements and the gripper's width in millimetres.",
    "OpenVLA and Octo read the gripper command 1 as open.",
    "OpenVLA-OFT's configuration asks for `EEF_state`, its transform writes `eef_state`: proprio fails.",
)


def standardize(raw: Trajectory) -> Trajectory:
    state, action = raw["observation/state"], raw["action"]
    pose = pose_from_euler(state[:, :3] * METRES, state[:, 3:6])
    return {
        "pose": pose,
        "gripper": from_width(state[:, 6], widest=WIDEST_MILLIMETRES),
        "delta": np.concatenate([action[:, :3] * METRES, action[:, 3:6]], axis=1),
        "target_gripper": invert(action[:, 6]),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    state, action = raw["observation/state"], raw["action"]
    pose = pose_from_euler(state[:, :3], state[:, 3:6])
    return {
        "pose": pose,
        "gripper": state[:, 6],
        "delta": action[:, :6],
        "target_gripper": action[:, 6],
        **next_poses(pose),
    }
