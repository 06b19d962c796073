"""U-Tokyo xArm Pick and Place, an xArm 7 with plates, 10 Hz.

State: x, y, z in metres with three angles in radians, seven joint angles and their velocities. Actions: the absolute
pose of the hand-held controller in the same layout, then its trigger, which closes the gripper. The catalog calls the
angles yaw, pitch, roll; the first is near pi throughout, which turns a gripper to the table only as roll.
"""

from data_pipelines.conventions.gripper import invert
from data_pipelines.conventions.motion import delta_between
from data_pipelines.conventions.pose import pose_from_euler
from data_pipelines.conventions.targets import every_step
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="utokyo_xarm_pick_and_place_converted_externally_to_rlds",
    version="0.1.0",
    robot="UFactory xArm7",
    cameras={
        "primary": "observation/image",
        "secondary": "observation/image2",
        "wrist": "observation/hand_image",
    },
    languages=("language_instruction",),
    numbers=("action", "observation/end_effector_pose", "observation/joint_state"),
    rate_hertz=10.0,
    action="gripper_pose",
    proprio="pose_euler",
    gripper="measured: none; commanded: 1 closed, 0 open, inverted",
    episodes={"train": 92, "val": 10},
    unknown=(
        "Whether the controller's pose is in the arm's base frame; RDT-1B reads it as a displacement.",
        "The sign of the trigger: RDT-1B reads 1 as closed, OpenVLA and Octo as open; RDT-1B's is taken.",
    ),
    source="TFDS catalog; the authors' conversion code (controller_pose, controller_trigger); RDT-1B's published "
    "statistics of the state (metres, order of the angles, rate)",
)
DIFFERENCES = (
    "OpenVLA and Octo take the absolute pose in the action for a displacement.",
    "OpenVLA and Octo read a pressed trigger as an open gripper.",
)


def standardize(raw: Trajectory) -> Trajectory:
    state, action = raw["observation/end_effector_pose"], raw["action"]
    pose, target_pose = pose_from_euler(state[:, :3], state[:, 3:6]), pose_from_euler(action[:, :3], action[:, 3:6])
    return {
        "pose": pose,
        "joints": raw["observation/joint_state"][:, :7],
        "delta": delta_between(pose, target_pose),
        "target_pose": target_pose,
        "target_gripper": invert(action[:, 6]),
        "target_valid": every_step(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    action = raw["action"]
    return standardize(raw) | {"delta": action[:, :6], "target_gripper": action[:, 6]}
