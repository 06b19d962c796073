"""Austin SAILOR, a Franka Panda at a table, 20 Hz.

State: a homogeneous matrix of the end effector, column after column; seven joint angles; gripper width in metres
(0..0.077). Actions: displacements scaled to -1..1, and a gripper command, 1 close, -1 open. Targets: the next state's
pose.
"""

from data_pipelines.conventions.gripper import from_width, invert
from data_pipelines.conventions.pose import next_poses, pose_from_column_major
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

WIDEST_METRES = 0.077
SPEC = DatasetSpec(
    name="austin_sailor_dataset_converted_externally_to_rlds",
    version="0.1.0",
    robot="Franka Panda",
    cameras={"primary": "observation/image", "wrist": "observation/wrist_image"},
    languages=("language_instruction",),
    numbers=("action", "observation/state_ee", "observation/state_joint", "observation/state_gripper"),
    rate_hertz=20.0,
    action="gripper_delta",
    delta_unit="unknown",
    proprio="pose_quaternion",
    gripper="measured: width in metres over 0.077; commanded: 1 closed, -1 open, inverted",
    episodes={"train": 240},
    unknown=(
        "The metres and radians of a displacement of 1, and how its rotation is written.",
        "The order of the matrix; column after column is taken, as in VIOLA, BUDS and SIRIUS.",
    ),
    source="TFDS catalog; OpenVLA's transform (gripper); rate: RDT-1B",
)
DIFFERENCES = (
    "OpenVLA and Octo give the measured gripper as a width in metres.",
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
    return standardize(raw) | {"gripper": raw["observation/state_gripper"][:, 0]}
