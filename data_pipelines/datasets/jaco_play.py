"""USC Jaco Play, a Kinova Jaco 2 in a toy kitchen, 10 Hz.

State: x, y, z and a quaternion of the end effector, six joint angles and two fingers. Actions: displacements without
rotation, and a relative gripper command (positive closes), integrated here. Targets: the next state's pose.
"""

from data_pipelines.conventions.gripper import integrate_closing
from data_pipelines.conventions.motion import delta_without_rotation
from data_pipelines.conventions.pose import next_poses, pose_from_euler, pose_from_quaternion
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="jaco_play",
    version="0.1.0",
    robot="Kinova Jaco 2",
    cameras={"primary": "observation/image", "wrist": "observation/image_wrist"},
    languages=("observation/natural_language_instruction",),
    numbers=(
        "action/world_vector",
        "action/gripper_closedness_action",
        "observation/end_effector_cartesian_pos",
        "observation/joint_pos",
    ),
    rate_hertz=10.0,
    action="gripper_delta",
    delta_unit="unknown",
    proprio="pose_quaternion",
    gripper="measured: two finger joints of unpublished range, not given; commanded: relative, above 0.1 close, below "
    "-0.1 open, integrated",
    episodes={"train": 976, "test": 109},
    unknown=(
        "The order of the quaternion; x, y, z, w as in ROS is taken.",
        "The unit of the commanded displacements: RT-1-X gives standard deviations of about 0.1.",
        "The range of the fingers.",
    ),
    source="TFDS catalog; RDT-1B's preprocessing (layout of the state); OpenVLA's transform (gripper)",
)
DIFFERENCES = ("OpenVLA and Octo read the quaternion's x, y, z as Euler angles and its w as the measured gripper.",)


def standardize(raw: Trajectory) -> Trajectory:
    state = raw["observation/end_effector_cartesian_pos"]
    pose = pose_from_quaternion(state[:, :3], state[:, 3:])
    return {
        "pose": pose,
        "joints": raw["observation/joint_pos"][:, :6],
        "delta": delta_without_rotation(raw["action/world_vector"]),
        "target_gripper": integrate_closing(raw["action/gripper_closedness_action"][:, 0]),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    state = raw["observation/end_effector_cartesian_pos"]
    pose = pose_from_euler(state[:, :3], state[:, 3:6])
    return standardize(raw) | {"pose": pose, "gripper": state[:, 6], **next_poses(pose)}
