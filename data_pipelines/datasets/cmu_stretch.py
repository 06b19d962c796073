"""CMU Stretch, a Hello Robot Stretch in kitchens, 10 Hz.

State: x, y, z of the end effector, a gripper position. Actions: displacements with roll, pitch, yaw (0 throughout in
OpenVLA's published statistics, as is y), the gripper, 1 open, the episode's end. The tool never turns: its rotation is
none. Targets: the next state's pose.
"""

import numpy as np

from data_pipelines.conventions.gripper import clip_openness
from data_pipelines.conventions.pose import next_poses, pose_from_euler
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="cmu_stretch",
    version="0.1.0",
    robot="Hello Robot Stretch",
    cameras={"primary": "observation/image"},
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=10.0,
    action="gripper_delta",
    proprio="position",
    gripper="measured: a position of unpublished range, not given; commanded: 1 open, 0 closed",
    episodes={"train": 135},
    unknown=(
        "Whether the state's three numbers are positions or joints, which the catalog leaves open, and their unit; "
        "positions in metres are taken, as OpenVLA and Octo do.",
        "The range of the measured gripper.",
    ),
    source="TFDS catalog; OpenVLA's, Octo's and RDT-1B's transforms (gripper); rate: Open X-Embodiment's overview",
)
DIFFERENCES = (
    "OpenVLA and Octo give the measured gripper's position for openness.",
    "OpenVLA-OFT's configuration asks for `EEF_state`, its transform writes `eef_state`: proprio fails.",
)


def standardize(raw: Trajectory) -> Trajectory:
    state, action = raw["observation/state"], raw["action"]
    pose = pose_from_euler(state[:, :3], np.zeros_like(state[:, :3]))
    return {
        "pose": pose,
        "delta": action[:, :6],
        "target_gripper": clip_openness(action[:, 6]),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    return standardize(raw) | {"gripper": raw["observation/state"][:, 3]}
