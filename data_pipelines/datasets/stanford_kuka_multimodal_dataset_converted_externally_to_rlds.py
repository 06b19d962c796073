"""Stanford Kuka Multimodal, a simulated and a real Kuka iiwa that insert pegs, 20 Hz.

State: x, y, z in metres, a quaternion, seven joint angles. Actions: displacements without rotation, and a fourth
number that the catalog calls gripper open or close. Targets: the next state's pose.
"""

from data_pipelines.conventions.motion import delta_without_rotation
from data_pipelines.conventions.pose import next_poses, pose_from_quaternion
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec, Depth

SPEC = DatasetSpec(
    name="stanford_kuka_multimodal_dataset_converted_externally_to_rlds",
    version="0.1.0",
    robot="Kuka iiwa",
    cameras={"primary": "observation/image"},
    depths={"primary": Depth(key="observation/depth_image", metres=None)},
    languages=("language_instruction",),
    numbers=("action", "observation/ee_position", "observation/ee_orientation", "observation/joint_pos"),
    rate_hertz=20.0,
    action="gripper_delta",
    delta_unit="unknown",
    proprio="pose_quaternion",
    gripper="commanded and measured: sign not published, not given",
    episodes={"train": 3000},
    unknown=(
        "The meaning of the fourth number of the action: RDT-1B saw -0.15..0.15 in it, which is no gripper command.",
        "The order of the quaternion; x, y, z, w is taken.",
        "The units of displacements and depth.",
    ),
    source="TFDS catalog; RDT-1B's preprocessing (range of the fourth number, rate)",
)
DIFFERENCES = ("OpenVLA and Octo take the fourth number of the action for openness as it stands.",)


def standardize(raw: Trajectory) -> Trajectory:
    pose = pose_from_quaternion(raw["observation/ee_position"], raw["observation/ee_orientation"])
    return {
        "pose": pose,
        "joints": raw["observation/joint_pos"],
        "delta": delta_without_rotation(raw["action"][:, :3]),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    return standardize(raw) | {"target_gripper": raw["action"][:, 3]}
