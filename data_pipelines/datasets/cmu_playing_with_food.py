"""CMU Playing with Food, a Franka Panda that grasps, presses and releases slices of food, 15 Hz.

State: forces, which have no column. Actions: an absolute pose and the gripper, 1 open, 0 closed: when pressing the
measured position, when grasping or releasing one position for the whole episode; the rotation is always that of a tool
that points down, quaternion x, y, z, w. No measured pose, hence no relative targets. `finger_vision_...` look at the
slice from between the fingers, and are black when pressing.
"""

from data_pipelines.conventions.gripper import clip_openness
from data_pipelines.conventions.motion import delta_from_quaternion, delta_to_next
from data_pipelines.conventions.pose import pose_from_euler, pose_from_quaternion
from data_pipelines.conventions.targets import all_but_last, every_step
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="cmu_playing_with_food",
    version="1.0.0",
    robot="Franka Panda",
    cameras={
        "primary": "observation/image",
        "wrist": "observation/finger_vision_1",
        "wrist_secondary": "observation/finger_vision_2",
    },
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=15.0,
    action="gripper_pose",
    proprio="none",
    gripper="measured: none; commanded: 1 open, 0 closed",
    episodes={"train": 4200},
    unknown=("Measured poses when grasping and releasing.",),
    source="the dataset's README and conversion code (actions, order of the quaternion, gripper, rate)",
)
DIFFERENCES = (
    "OpenVLA and Octo take the absolute pose in the action for a displacement.",
    "OpenVLA and Octo give the six forces for the measured pose.",
)


def standardize(raw: Trajectory) -> Trajectory:
    action = raw["action"]
    target_pose = pose_from_quaternion(action[:, :3], action[:, 3:7])
    return {
        "delta": delta_to_next(target_pose),
        "target_pose": target_pose,
        "target_gripper": clip_openness(action[:, 7]),
        "delta_valid": all_but_last(action),
    }


def upstream(raw: Trajectory) -> Trajectory:
    action, force = raw["action"], raw["observation/state"]
    return standardize(raw) | {
        "pose": pose_from_euler(force[:, :3], force[:, 3:6]),
        "delta": delta_from_quaternion(action[:, :3], action[:, 3:7]),
        "delta_valid": every_step(action),
    }
