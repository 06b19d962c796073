"""Austin SIRIUS, a Franka Panda under human supervision, 20 Hz.

State: a homogeneous matrix of the end effector, column after column; seven joint angles; gripper width in metres
(0..0.077). Actions: displacements scaled to -1..1, and a gripper command, 1 close, -1 open. Targets: the next state's
pose. Steps driven by the robot itself (`action_mode` 0) are kept.
"""

from data_pipelines.conventions.gripper import from_width, invert
from data_pipelines.conventions.pose import next_poses, pose_from_column_major, pose_from_quaternion
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

WIDEST_METRES = 0.077
SPEC = DatasetSpec(
    name="austin_sirius_dataset_converted_externally_to_rlds",
    version="0.1.0",
    robot="Franka Panda",
    cameras={"primary": "observation/image", "wrist": "observation/wrist_image"},
    languages=("language_instruction",),
    numbers=(
        "action",
        "observation/state",
        "observation/state_ee",
        "observation/state_joint",
        "observation/state_gripper",
    ),
    rate_hertz=20.0,
    action="gripper_delta",
    delta_unit="unknown",
    proprio="joints",
    gripper="measured: width in metres over 0.077; commanded: 1 closed, -1 open, inverted",
    episodes={"train": 559},
    unknown=("The metres and radians of a displacement of 1, and how its rotation is written.",),
    source="TFDS catalog; RDT-1B's preprocessing (order of the matrix, rate); OpenVLA's transform (gripper)",
)
DIFFERENCES = (
    "OpenVLA and Octo read `state`, seven joint angles and the gripper's width, as a position, a quaternion and the "
    "gripper.",
    "Octo replaces the instruction by an empty one; here it is kept.",
)


def standardize(raw: Trajectory) -> Trajectory:
    pose = pose_from_column_major(raw["observation/state_ee"])
    return {
        "pose": pose,
        "gripper": from_width(raw["observation/state_gripper"][:, 0], widest=WIDEST_METRES),
        "joints": raw["observation/state_joint"],
        "delta": raw["action"][:, :6],
        "target_gripper": invert(raw["action"][:, 6]),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    state = raw["observation/state"]
    pose = pose_from_quaternion(state[:, :3], state[:, 3:7])
    return standardize(raw) | {"pose": pose, "gripper": state[:, 7], **next_poses(pose)}
