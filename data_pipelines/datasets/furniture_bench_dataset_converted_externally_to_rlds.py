"""FurnitureBench, a Franka Panda that assembles furniture, 10 Hz.

State: x, y, z in metres, quaternion x, y, z, w, velocities, seven joint angles, their velocities and torques, gripper
width in metres. Actions: displacement, a turn as quaternion x, y, z, w, and gripper, 1 close, -1 open. Targets: the
next state's pose.
"""

from data_pipelines.conventions.gripper import from_width, invert
from data_pipelines.conventions.motion import delta_from_quaternion
from data_pipelines.conventions.pose import next_poses, pose_from_quaternion
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

WIDEST_METRES = 0.08
SPEC = DatasetSpec(
    name="furniture_bench_dataset_converted_externally_to_rlds",
    version="0.1.0",
    robot="Franka Panda",
    cameras={"primary": "observation/image", "wrist": "observation/wrist_image"},
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=10.0,
    action="gripper_delta",
    delta_unit="unknown",
    proprio="pose_quaternion",
    gripper="measured: width in metres over 0.08; commanded: 1 closed, -1 and 0 open, inverted",
    episodes={"train": 5100},
    unknown=("Whether displacements are metres: the builder calls them velocities.",),
    source="the dataset's TFDS builder; OpenVLA's transform (gripper); RDT-1B's preprocessing (width, rate)",
)
DIFFERENCES = ("OpenVLA and Octo give the measured gripper as a width in metres.",)


def standardize(raw: Trajectory) -> Trajectory:
    state, action = raw["observation/state"], raw["action"]
    pose = pose_from_quaternion(state[:, :3], state[:, 3:7])
    return {
        "pose": pose,
        "gripper": from_width(state[:, 34], widest=WIDEST_METRES),
        "joints": state[:, 13:20],
        "delta": delta_from_quaternion(action[:, :3], action[:, 3:7]),
        "target_gripper": invert(action[:, 7]),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    return standardize(raw) | {"gripper": raw["observation/state"][:, 34]}
