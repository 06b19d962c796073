"""Berkeley RPT, a Franka Panda with a wrist camera that picks and stacks, 30 Hz.

State: seven joint angles, the gripper, true when closed. (The catalog says xArm, copied from MVP; the paper and the
range of the joints say Franka.) Actions: the joint angles measured at the next step minus these, and the gripper
measured there; nothing at the last step. Targets: the next state's joint angles.
"""

import numpy as np

from data_pipelines.conventions.gripper import invert
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="berkeley_rpt_converted_externally_to_rlds",
    version="0.1.0",
    robot="Franka Panda",
    cameras={"wrist": "observation/hand_image"},
    languages=("language_instruction",),
    numbers=("action", "observation/joint_pos", "observation/gripper"),
    rate_hertz=30.0,
    action="joint_position",
    proprio="joints",
    gripper="measured and commanded: 1 closed, 0 open, inverted",
    episodes={"train": 908},
    unknown=(
        "The commanded gripper where the recording has a width: the conversion writes one minus it, in its own unit.",
    ),
    source="TFDS catalog; the authors' conversion code (actions); RPT (arXiv 2306.10007); RDT-1B's published "
    "statistics (joints); rate: Open X-Embodiment's overview",
)
DIFFERENCES = (
    "OpenVLA and Octo leave the gripper as closedness, measured and commanded.",
    "OpenVLA and Octo give joint differences, masked as relative; here targets are absolute joint angles.",
    "OpenVLA joins the measured gripper, one number a step, to seven as if it had a second axis: proprio fails.",
)


def standardize(raw: Trajectory) -> Trajectory:
    joints, action = raw["observation/joint_pos"], raw["action"]
    return {
        "gripper": invert(raw["observation/gripper"]),
        "joints": joints,
        "target_joints": joints + action[:, :7],
        "target_gripper": invert(action[:, 7]),
        "target_valid": np.arange(len(joints)) < len(joints) - 1,
    }


def upstream(raw: Trajectory) -> Trajectory:
    return standardize(raw) | {
        "gripper": raw["observation/gripper"].astype(np.float32),
        "target_joints": raw["action"][:, :7],
        "target_gripper": raw["action"][:, 7],
    }
