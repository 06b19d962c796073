"""NYU ROT, an xArm 7 that imitates with optimal transport, 3 Hz.

State: x, y, z, roll, pitch, yaw, gripper (0 open, 1 closed). Actions: displacements and the same gripper. Targets: the
next state's pose.
"""

from data_pipelines.conventions.gripper import clip_openness, invert
from data_pipelines.conventions.pose import next_poses, pose_from_euler
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="nyu_rot_dataset_converted_externally_to_rlds",
    version="0.1.0",
    robot="UFactory xArm7",
    cameras={"primary": "observation/image"},
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=3.0,
    action="gripper_delta",
    delta_unit="unknown",
    proprio="pose_euler",
    gripper="measured and commanded: 1 closed, inverted",
    episodes={"train": 14},
    unknown=("The units of positions and angles; metres and radians are taken for the state.",),
    source="TFDS catalog; rate: RDT-1B",
)
DIFFERENCES = ("OpenVLA and Octo leave the gripper, measured and commanded, as it stands: 1 closed.",)


def standardize(raw: Trajectory) -> Trajectory:
    state = raw["observation/state"]
    pose = pose_from_euler(state[:, :3], state[:, 3:6])
    return {
        "pose": pose,
        "gripper": invert(state[:, 6]),
        "delta": raw["action"][:, :6],
        "target_gripper": invert(raw["action"][:, 6]),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    measured, commanded = raw["observation/state"][:, 6], raw["action"][:, 6]
    return standardize(raw) | {"gripper": clip_openness(measured), "target_gripper": clip_openness(commanded)}
