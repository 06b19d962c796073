"""Stanford MaskViT, a Sawyer that plays at random in a bin, in RoboNet's manner; steps last until the arm rests.

State: x, y, z as fractions of the workspace between `low_bound` and `high_bound` (metres), the wrist's angle, the
gripper between the same bounds, upper open; seven joint angles and velocities. Actions: displacements of the set point
in metres, of the wrist's angle, and the gripper, 1 closed, -1 open; nothing at the last step. The tool points down:
the wrist's angle a is the rotation Rz(pi - a) Rx(pi), so that it grows against yaw. Targets: the next state's pose.
"""

import numpy as np

from data_pipelines.conventions.gripper import clip_openness, from_signed
from data_pipelines.conventions.pose import next_poses, pose_from_euler
from data_pipelines.conventions.targets import all_but_last
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="stanford_mask_vit_converted_externally_to_rlds",
    version="0.1.0",
    robot="Sawyer, Weiss WSG-50",
    cameras={"primary": "observation/image"},
    languages=("language_instruction",),
    numbers=(
        "action",
        "observation/end_effector_pose",
        "observation/low_bound",
        "observation/high_bound",
        "observation/state",
    ),
    rate_hertz=None,
    action="gripper_delta",
    proprio="position",
    gripper="measured: between the bounds, upper open; commanded: 1 closed, -1 open",
    episodes={"train": 9109, "val": 91},
    unknown=("Whether this robot's copy of the collecting code changed the wrist's angle.",),
    source="TFDS catalog; the authors' conversion code; SudeepDasari/visual_foresight, which collected it (fractions, "
    "wrist's angle of the Sawyer, gripper)",
)
DIFFERENCES = (
    "OpenVLA and Octo put the wrist's angle of state and action into the slot of roll.",
    "OpenVLA and Octo read the fractions of the workspace as metres.",
    "OpenVLA and Octo take the gripper command as it stands: 1, which closes, for open, and -1 below openness.",
    "OpenVLA-OFT's configuration asks for `EEF_state`, its transform writes `eef_state`: proprio fails.",
)


def standardize(raw: Trajectory) -> Trajectory:
    state, action = raw["observation/end_effector_pose"], raw["action"]
    low, size = raw["observation/low_bound"], raw["observation/high_bound"] - raw["observation/low_bound"]
    down, still = np.full(len(state), np.pi), np.zeros(len(state))
    pose = pose_from_euler(
        low[:, :3] + state[:, :3] * size[:, :3], np.stack([down, still, np.pi - state[:, 3]], axis=1)
    )
    return {
        "pose": pose,
        "gripper": clip_openness((state[:, 4] - low[:, 4]) / size[:, 4]),
        "joints": raw["observation/state"][:, :7],
        "delta": np.concatenate([action[:, :3], np.stack([still, still, -action[:, 3]], axis=1)], axis=1),
        "delta_valid": all_but_last(action),
        "target_gripper": from_signed(action[:, 4], opens=-1),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    state, action = raw["observation/end_effector_pose"], raw["action"]
    nothing = np.zeros((len(action), 2), np.float32)
    pose = pose_from_euler(state[:, :3], np.concatenate([state[:, 3:4], nothing], axis=1))
    return {
        "pose": pose,
        "gripper": state[:, 4],
        "delta": np.concatenate([action[:, :4], nothing], axis=1),
        "target_gripper": action[:, 4],
        **next_poses(pose),
    }
