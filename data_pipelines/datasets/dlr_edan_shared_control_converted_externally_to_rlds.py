"""DLR EDAN, a light-weight arm on a wheelchair under shared control, 5 Hz.

State: x, y, z in metres in the base frame, Euler angles by scipy's as_euler("zxy"), the gripper, 1 closed. Actions: a
motion in the base frame in the same layout; its seventh number repeats the state's gripper. Targets: the next state's
pose.
"""

from data_pipelines.conventions.gripper import invert
from data_pipelines.conventions.motion import delta_from_euler
from data_pipelines.conventions.pose import next_poses, pose_from_euler
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="dlr_edan_shared_control_converted_externally_to_rlds",
    version="0.1.0",
    robot="DLR EDAN",
    cameras={"primary": "observation/image"},
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=5.0,
    action="gripper_delta",
    proprio="pose_euler",
    gripper="measured and commanded: 1 closed, 0 open, inverted",
    episodes={"train": 104},
    unknown=(
        "Whether the translation of an action is a displacement or, as in the authors' SARA sets, that of a matrix "
        "multiplied from the left.",
    ),
    source="TFDS catalog; the authors' README and conversion code (frame, gripper); OpenVLA's and Octo's transform "
    "(sign of the gripper); rate: Open X-Embodiment's overview",
)
DIFFERENCES = (
    'OpenVLA and Octo read "zxy" angles, of state and action, as roll, pitch, yaw.',
    "OpenVLA and Octo leave the measured gripper as closedness beside commands that are openness.",
)


def standardize(raw: Trajectory) -> Trajectory:
    state, action = raw["observation/state"], raw["action"]
    pose = pose_from_euler(state[:, :3], state[:, 3:6], "zxy")
    return {
        "pose": pose,
        "gripper": invert(state[:, 6]),
        "delta": delta_from_euler(action[:, :3], action[:, 3:6], "zxy"),
        "target_gripper": invert(action[:, 6]),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    state, action = raw["observation/state"], raw["action"]
    pose = pose_from_euler(state[:, :3], state[:, 3:6])
    return standardize(raw) | {"pose": pose, "gripper": state[:, 6], "delta": action[:, :6], **next_poses(pose)}
