"""UT Austin MUTEX, a Franka Panda in a home, 20 Hz.

State: seven joint angles, gripper width in metres, a homogeneous matrix of the end effector, column after column.
Actions: displacements scaled to -1..1, and a gripper command, 1 close, -1 open. Targets: the next state's pose.
"""

from data_pipelines.conventions.gripper import from_width, invert
from data_pipelines.conventions.pose import next_poses, pose_from_column_major
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

WIDEST_METRES = 0.08
SPEC = DatasetSpec(
    name="utaustin_mutex",
    version="0.1.0",
    robot="Franka Panda",
    cameras={"primary": "observation/image", "wrist": "observation/wrist_image"},
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=20.0,
    action="gripper_delta",
    delta_unit="unknown",
    proprio="joints",
    gripper="measured: width in metres over 0.08; commanded: 1 closed, 0 and -1 open, inverted",
    episodes={"train": 1500},
    unknown=(
        "The metres and radians of a displacement of 1, and how its rotation is written.",
        "The order of the pictures' channels: some published loaders swap red and blue.",
    ),
    source="TFDS catalog; OpenVLA's transform (gripper); RDT-1B's preprocessing (order of the matrix, width, rate)",
)
DIFFERENCES = (
    "OpenVLA and Octo give the measured gripper as a width in metres.",
    "Octo replaces the instruction by an empty one; here it is kept.",
)


def standardize(raw: Trajectory) -> Trajectory:
    state, action = raw["observation/state"], raw["action"]
    pose = pose_from_column_major(state[:, 8:24])
    return {
        "pose": pose,
        "gripper": from_width(state[:, 7], widest=WIDEST_METRES),
        "joints": state[:, :7],
        "delta": action[:, :6],
        "target_gripper": invert(action[:, 6]),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    return standardize(raw) | {"gripper": raw["observation/state"][:, 7]}
