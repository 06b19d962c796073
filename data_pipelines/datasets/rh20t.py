"""RH20T in the RLDS build that Octo trained on; it was not released, and its feature tree is not known.

Keys and layout are those that Octo's and OpenVLA's code reads: `tcp_base` with six numbers, x, y, z and roll, pitch,
yaw in the robot base frame, measured and, as a motion, commanded. Targets: the next state's pose.
"""

from data_pipelines.conventions.gripper import clip_openness
from data_pipelines.conventions.pose import next_poses, pose_from_euler
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec
from vla_jax.types import InputError

SPEC = DatasetSpec(
    name="rh20t",
    version="unknown",
    robot="several arms (Flexiv, UR5, Franka, Kuka)",
    cameras={
        "primary": "observation/image_front",
        "secondary": "observation/image_side_right",
        "wrist": "observation/image_wrist",
    },
    languages=("language_instruction",),
    numbers=("action/tcp_base", "action/gripper", "observation/tcp_base"),
    rate_hertz=None,
    action="gripper_delta",
    delta_unit="unknown",
    proprio="pose_euler",
    gripper="action: 1 open as OpenVLA and Octo read it; state: `observation/gripper_width`, unit unknown, not given",
    unknown=("The version, the feature tree, the gripper's width when open, the order of the Euler angles, the rate.",),
    is_verified=False,
    source="OpenVLA's and Octo's standardisation; RH20T (arXiv 2307.00595)",
)


def standardize(raw: Trajectory) -> Trajectory:
    for key in ("action/tcp_base", "observation/tcp_base"):
        if raw[key].shape[1:] != (6,):
            raise InputError(
                f"datasets/rh20t.py: {key} has {raw[key].shape[1:]} numbers a step; 6 are expected (x, y, z, roll, "
                "pitch, yaw), which is how OpenVLA and Octo read the build that they trained on. Adapt this file"
            )
    measured = raw["observation/tcp_base"]
    pose = pose_from_euler(measured[:, :3], measured[:, 3:])
    return {
        "pose": pose,
        "delta": raw["action/tcp_base"],
        "target_gripper": clip_openness(raw["action/gripper"].reshape(len(pose))),
        **next_poses(pose),
    }
