"""ASU TableTop, a UR5 that pushes, picks and puts down, 12.5 Hz.

State: six joint angles and a gripper position; x, y, z, roll, pitch, yaw of the end effector, measured. Actions: the
absolute pose and gripper position of the next state (the catalog, whose text is the template's, says joint
velocities). Targets: that pose.
"""

from data_pipelines.conventions.motion import delta_between
from data_pipelines.conventions.pose import pose_from_euler
from data_pipelines.conventions.targets import every_step
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="asu_table_top_converted_externally_to_rlds",
    version="0.1.0",
    robot="UR5",
    cameras={"primary": "observation/image"},
    languages=("language_instruction",),
    numbers=("action", "ground_truth_states/EE", "observation/state"),
    rate_hertz=12.5,
    action="gripper_pose",
    proprio="joints",
    gripper="measured and commanded: a position of unpublished sign and range, not given",
    episodes={"train": 110},
    unknown=("The sign and range of the gripper's position.", "The unit of positions; metres are taken."),
    source="TFDS catalog; the authors' TFDS builder (actions are the next state); rate: Open X-Embodiment's overview",
)
DIFFERENCES = (
    "OpenVLA and Octo take the absolute next pose in the action for a displacement.",
    "OpenVLA and Octo give the gripper's position for openness, measured and commanded.",
    "OpenVLA-OFT's configuration asks for `EEF_state`, its transform writes `eef_state`: proprio fails.",
)


def standardize(raw: Trajectory) -> Trajectory:
    state, action = raw["ground_truth_states/EE"], raw["action"]
    pose, target_pose = pose_from_euler(state[:, :3], state[:, 3:]), pose_from_euler(action[:, :3], action[:, 3:6])
    return {
        "pose": pose,
        "joints": raw["observation/state"][:, :6],
        "delta": delta_between(pose, target_pose),
        "target_pose": target_pose,
        "target_valid": every_step(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    action = raw["action"]
    return standardize(raw) | {
        "gripper": raw["observation/state"][:, 6],
        "delta": action[:, :6],
        "target_gripper": action[:, 6],
    }
