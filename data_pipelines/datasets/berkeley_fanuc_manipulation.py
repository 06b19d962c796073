"""Berkeley Fanuc Manipulation, a Fanuc LR Mate 200iD at a table, 10 Hz.

State: six joint angles, the gripper, 1 closed, velocities that are zero; x, y, z in metres and a quaternion. Actions:
displacements with roll, pitch, yaw; no gripper, whose target is what the next step measures. Quaternions are x, y, z,
w: so read, the tool points down and turns about the vertical in the published statistics.
"""

from data_pipelines.conventions.gripper import invert
from data_pipelines.conventions.pose import next_poses, pose_from_quaternion
from data_pipelines.conventions.targets import all_but_last, every_step, next_openness
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="berkeley_fanuc_manipulation",
    version="0.1.0",
    robot="Fanuc LR Mate 200iD",
    cameras={"primary": "observation/image", "wrist": "observation/wrist_image"},
    languages=("language_instruction",),
    numbers=("action", "observation/state", "observation/end_effector_state"),
    rate_hertz=10.0,
    action="gripper_delta",
    proprio="joints",
    gripper="measured: 1 closed, 0 open, inverted; commanded: none",
    episodes={"train": 415},
    unknown=(
        "The order of the quaternion, beyond the statistics: the authors' RT-1 mapping reads w first.",
        "The order of the pictures' channels: some published loaders swap red and blue.",
    ),
    source="TFDS catalog; OpenVLA's and Octo's transform (sign of the gripper); RDT-1B's published statistics "
    "(quaternion, velocities, rate)",
)
DIFFERENCES = (
    "OpenVLA and Octo command the gripper measured at the same step, so that its present state is what is predicted.",
    "OpenVLA and Octo leave the measured gripper as closedness beside commands that are openness.",
)


def standardize(raw: Trajectory) -> Trajectory:
    state, tool = raw["observation/state"], raw["observation/end_effector_state"]
    pose, openness = pose_from_quaternion(tool[:, :3], tool[:, 3:]), invert(state[:, 6])
    return {
        "pose": pose,
        "gripper": openness,
        "joints": state[:, :6],
        "delta": raw["action"],
        "delta_valid": all_but_last(pose),
        "target_gripper": next_openness(openness),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    closedness = raw["observation/state"][:, 6]
    return standardize(raw) | {
        "gripper": closedness,
        "target_gripper": invert(closedness),
        "delta_valid": every_step(closedness),
    }
