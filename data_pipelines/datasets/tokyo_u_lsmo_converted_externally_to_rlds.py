"""U-Tokyo LSMO, a Denso Cobotta that reaches along planned trajectories, 10 Hz.

State: x, y, z in metres, Euler angles about z, y, x (scipy's "zyx"), six joint angles, the gripper. Actions: what the
next state's numbers are minus these, angle by angle, and the gripper, 1 closed, which stays open throughout. Targets:
the pose of state plus action.
"""

from data_pipelines.conventions.gripper import invert
from data_pipelines.conventions.motion import delta_between
from data_pipelines.conventions.pose import pose_from_euler
from data_pipelines.conventions.targets import every_step
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="tokyo_u_lsmo_converted_externally_to_rlds",
    version="0.1.0",
    robot="Denso Cobotta",
    cameras={"primary": "observation/image"},
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=10.0,
    action="gripper_delta",
    proprio="pose_euler",
    gripper="measured and commanded: 1 closed, 0 open, inverted",
    episodes={"train": 50},
    source="TFDS catalog; the authors' README (order of the angles, gripper) and raw data beside it (actions are "
    "differences of the next state); rate: Open X-Embodiment's overview",
)
DIFFERENCES = (
    "OpenVLA and Octo read the angles, which are about z, y, x, as roll, pitch, yaw.",
    "OpenVLA and Octo read the gripper's 0, which is open throughout, as closed.",
    "OpenVLA-OFT's configuration asks for `EEF_state`, its transform writes `eef_state`: proprio fails.",
)


def standardize(raw: Trajectory) -> Trajectory:
    state, action = raw["observation/state"], raw["action"]
    after = state[:, :6] + action[:, :6]
    pose = pose_from_euler(state[:, :3], state[:, 3:6], "zyx")
    target_pose = pose_from_euler(after[:, :3], after[:, 3:], "zyx")
    return {
        "pose": pose,
        "gripper": invert(state[:, 12]),
        "joints": state[:, 6:12],
        "delta": delta_between(pose, target_pose),
        "target_pose": target_pose,
        "target_gripper": invert(action[:, 6]),
        "target_valid": every_step(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    state, action = raw["observation/state"], raw["action"]
    after = state[:, :6] + action[:, :6]
    return standardize(raw) | {
        "pose": pose_from_euler(state[:, :3], state[:, 3:6]),
        "gripper": state[:, 12],
        "delta": action[:, :6],
        "target_pose": pose_from_euler(after[:, :3], after[:, 3:]),
        "target_gripper": action[:, 6],
    }
