"""Dobb-E's homes (`dobbe`): a hand-held stick with the gripper and wrist camera of a Hello Robot Stretch.

State: position in metres and quaternion x, y, z, w of the stick, from the phone's tracking, in a frame of each
episode's own (no robot base); gripper openness, 1 open. The only camera is the wrist's; OpenVLA reads it as primary,
Octo as wrist, and both slots give it here. Targets: the next state's pose, and the openness in the action.
"""

from data_pipelines.conventions.gripper import clip_openness
from data_pipelines.conventions.pose import next_poses, pose_from_quaternion
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="dobbe",
    version="0.0.1",
    robot="hand-held stick with the Hello Robot Stretch's gripper",
    cameras={"primary": "observation/wrist_image", "wrist": "observation/wrist_image"},
    languages=("language_instruction",),
    numbers=("action", "observation/xyz", "observation/quat", "observation/gripper"),
    rate_hertz=3.75,
    action="gripper_delta",
    delta_unit="unknown",
    proprio="pose_quaternion",
    gripper="state and action: 1 open, 0 closed, continuous",
    episodes={"train": 5208},
    unknown=(
        "Frame, unit and rotation of the actions: the authors' code makes them relative to the previous pose with a "
        "rotation vector, Octo and OpenVLA read roll, pitch, yaw, a published list calls them absolute.",
    ),
    source="the TFDS catalog's feature tree; github.com/notmahi/dobb-e (quaternions, openness); the Open X-Embodiment "
    "overview sheet (rate)",
)


def standardize(raw: Trajectory) -> Trajectory:
    pose = pose_from_quaternion(raw["observation/xyz"], raw["observation/quat"])
    return {
        "pose": pose,
        "gripper": clip_openness(raw["observation/gripper"][:, 0]),
        "delta": raw["action"][:, :6],
        "target_gripper": clip_openness(raw["action"][:, 6]),
        **next_poses(pose),
    }
