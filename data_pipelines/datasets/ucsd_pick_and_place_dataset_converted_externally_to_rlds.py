"""UCSD Pick and Place, an xArm on a table, 3 Hz.

State: x, y, z (in decimetres, by RDT-1B's preprocessing), orientation, distance of the fingers (6.03 open). Actions:
velocities without rotation, and a torque that opens or closes the gripper. Targets: the next state's pose.
"""

from data_pipelines.conventions.gripper import from_width
from data_pipelines.conventions.motion import delta_without_rotation
from data_pipelines.conventions.pose import next_poses, pose_from_euler
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

DECIMETRE = 0.1
WIDEST = 6.03
SPEC = DatasetSpec(
    name="ucsd_pick_and_place_dataset_converted_externally_to_rlds",
    version="0.1.0",
    robot="UFactory xArm7",
    cameras={"primary": "observation/image"},
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=3.0,
    action="gripper_velocity",
    delta_unit="unknown",
    proprio="pose_euler",
    gripper="measured: distance of the fingers over 6.03; commanded: a torque, sign not published, not given",
    episodes={"train": 1355},
    unknown=(
        "The sign of the gripper's torque: OpenVLA and Octo take 1 for open, RDT-1B for closed.",
        "The unit of the velocities, and that of the angles; radians, extrinsic x, y, z are taken.",
    ),
    source="TFDS catalog; RDT-1B's preprocessing (decimetres, fingers, rate)",
)
DIFFERENCES = (
    "OpenVLA and Octo leave the position in decimetres and the measured gripper in the fingers' distance.",
    "OpenVLA and Octo take the gripper's torque for openness.",
)


def standardize(raw: Trajectory) -> Trajectory:
    state = raw["observation/state"]
    pose = pose_from_euler(state[:, :3] * DECIMETRE, state[:, 3:6])
    return {
        "pose": pose,
        "gripper": from_width(state[:, 6], widest=WIDEST),
        "delta": delta_without_rotation(raw["action"][:, :3]),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    state = raw["observation/state"]
    pose = pose_from_euler(state[:, :3], state[:, 3:6])
    gripper = {"gripper": state[:, 6], "target_gripper": raw["action"][:, 3]}
    return standardize(raw) | {"pose": pose} | gripper | next_poses(pose)
