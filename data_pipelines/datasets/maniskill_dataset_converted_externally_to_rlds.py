"""ManiSkill2's demonstrations, a simulated Franka Panda, 20 Hz.

State: poses of tool and base in the world, x, y, z in metres and quaternion w, x, y, z; seven joint angles and two
finger positions in metres (0.04 open). Actions: target displacements, 1 is 0.1 m; turns as axis times angle, 1 is
0.1 rad; gripper, 1 open, -1 closed. Both are given in metres, roll, pitch, yaw here. Targets: the next state's pose.
"""

from data_pipelines.conventions.gripper import from_signed, from_width
from data_pipelines.conventions.motion import delta_from_rotation_vector
from data_pipelines.conventions.pose import next_poses, pose_from_quaternion, pose_from_quaternion_wxyz, pose_in_frame
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec, Depth

WIDEST_METRES = 0.04
METRES, RADIANS = 0.1, 0.1
DEPTH_METRES = 2.0**-10
SPEC = DatasetSpec(
    name="maniskill_dataset_converted_externally_to_rlds",
    version="0.1.0",
    robot="simulated Franka Panda",
    cameras={"primary": "observation/image", "wrist": "observation/wrist_image"},
    depths={
        "primary": Depth(key="observation/depth", metres=DEPTH_METRES),
        "wrist": Depth(key="observation/wrist_depth", metres=DEPTH_METRES),
    },
    languages=("language_instruction",),
    numbers=("action", "observation/state", "observation/tcp_pose", "observation/base_pose"),
    rate_hertz=20.0,
    action="gripper_delta",
    action_range=((-1.0, 1.0),) * 7,
    proprio="pose_quaternion",
    gripper="measured: a finger's position over 0.04 m; commanded: 1 open, -1 closed",
    episodes={"train": 30213},
    unknown=("Whether turns are about the axes of the base or of the tool.",),
    source="TFDS catalog; RDT-1B's preprocessing (fingers, the base's pose, rate)",
)
DIFFERENCES = (
    "OpenVLA and Octo read the tool's quaternion w, x, y, z as x, y, z, w, in the world instead of the base's frame.",
    "OpenVLA and Octo leave displacements times 10 and turns as axis times angle, where others have roll, pitch, yaw.",
    "OpenVLA and Octo leave the commanded gripper in -1..1 and the measured one in metres.",
)


def standardize(raw: Trajectory) -> Trajectory:
    tool, base = raw["observation/tcp_pose"], raw["observation/base_pose"]
    world = pose_from_quaternion_wxyz(tool[:, :3], tool[:, 3:])
    pose = pose_in_frame(world, pose_from_quaternion_wxyz(base[:, :3], base[:, 3:]))
    return {
        "pose": pose,
        "gripper": from_width(raw["observation/state"][:, 7], widest=WIDEST_METRES),
        "joints": raw["observation/state"][:, :7],
        "delta": delta_from_rotation_vector(raw["action"][:, :3] * METRES, raw["action"][:, 3:6] * RADIANS),
        "target_gripper": from_signed(raw["action"][:, 6], opens=1),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    tool = raw["observation/tcp_pose"]
    pose = pose_from_quaternion(tool[:, :3], tool[:, 3:])
    return standardize(raw) | {
        "pose": pose,
        "gripper": raw["observation/state"][:, 7],
        "delta": raw["action"][:, :6],
        "target_gripper": raw["action"][:, 6],
        **next_poses(pose),
    }
