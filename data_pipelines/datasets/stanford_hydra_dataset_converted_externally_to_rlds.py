"""Stanford HYDRA, a Franka Panda with long tasks, 10 Hz.

State: x, y, z in metres, a quaternion, the same as Euler angles x, y, z, seven joint angles, seven joint velocities,
three numbers of the gripper, the first its width in metres. Actions: displacements with Euler angles, and a gripper
command, 1 close. Targets: the next state's pose.
"""

from data_pipelines.conventions.gripper import from_width, invert
from data_pipelines.conventions.pose import next_poses, pose_from_euler
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

WIDEST_METRES = 0.08
SPEC = DatasetSpec(
    name="stanford_hydra_dataset_converted_externally_to_rlds",
    version="0.1.0",
    robot="Franka Panda",
    cameras={"primary": "observation/image", "wrist": "observation/wrist_image"},
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=10.0,
    action="gripper_delta",
    delta_unit="unknown",
    proprio="pose_euler",
    gripper="measured: width in metres over 0.08; commanded: 1 closed, inverted",
    episodes={"train": 570},
    unknown=(
        "The order of the Euler angles; extrinsic x, y, z is taken, as OpenVLA does.",
        "The unit of the displacements, and what the second and third number of the gripper are.",
    ),
    source="TFDS catalog; RDT-1B's preprocessing (width, rate)",
)
DIFFERENCES = (
    "OpenVLA and Octo give the measured gripper as a width in metres.",
    "Octo replaces the instruction by an empty one; here it is kept.",
)


def standardize(raw: Trajectory) -> Trajectory:
    state = raw["observation/state"]
    pose = pose_from_euler(state[:, :3], state[:, 7:10])
    return {
        "pose": pose,
        "gripper": from_width(state[:, 24], widest=WIDEST_METRES),
        "joints": state[:, 10:17],
        "delta": raw["action"][:, :6],
        "target_gripper": invert(raw["action"][:, 6]),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    return standardize(raw) | {"gripper": raw["observation/state"][:, 24]}
