"""Stanford RoboCook, a Franka Panda that shapes dough with tools, 5 Hz.

State: x, y, z in metres, roll, pitch, yaw, gripper width in metres. Actions: the motion to the next state and the
change of the width (the catalog says velocities); nothing at the last step. Depth is in millimetres, cut at 2 metres
and resampled. Targets: the next state's pose and openness.
"""

from data_pipelines.conventions.gripper import from_width
from data_pipelines.conventions.pose import next_poses, pose_from_euler
from data_pipelines.conventions.targets import all_but_last, every_step, next_openness
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec, Depth

WIDEST_METRES = 0.08
SLOTS = {"primary": 1, "secondary": 2, "tertiary": 3, "quaternary": 4}
SPEC = DatasetSpec(
    name="stanford_robocook_converted_externally_to_rlds",
    version="0.1.0",
    robot="Franka Panda",
    cameras={slot: f"observation/image_{number}" for slot, number in SLOTS.items()},
    depths={slot: Depth(key=f"observation/depth_{number}", metres=0.001) for slot, number in SLOTS.items()},
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=5.0,
    action="gripper_delta",
    proprio="pose_euler",
    gripper="measured: width in metres over 0.08; commanded: its change to the next state, made absolute",
    episodes={"train": 2460},
    unknown=("The frame of the rotation: the authors turn the published one by pi about x, from the left.",),
    source="TFDS catalog; the authors' conversion code (actions, depth); RDT-1B's preprocessing (width, rate)",
)
DIFFERENCES = (
    "OpenVLA and Octo take the change of the gripper's width, near 0, for openness: closed throughout.",
    "OpenVLA and Octo give the measured gripper as a width in metres.",
    "OpenVLA-OFT's configuration asks for `EEF_state`, its transform writes `eef_state`: proprio fails.",
)


def standardize(raw: Trajectory) -> Trajectory:
    state = raw["observation/state"]
    pose, openness = pose_from_euler(state[:, :3], state[:, 3:6]), from_width(state[:, 6], widest=WIDEST_METRES)
    return {
        "pose": pose,
        "gripper": openness,
        "delta": raw["action"][:, :6],
        "delta_valid": all_but_last(pose),
        "target_gripper": next_openness(openness),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    return standardize(raw) | {
        "gripper": raw["observation/state"][:, 6],
        "target_gripper": raw["action"][:, 6],
        "delta_valid": every_step(raw["action"]),
    }
