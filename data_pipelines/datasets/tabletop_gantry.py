"""Demonstrations of the environment `tabletop`, four-axis gantry, 10 Hz, by `python -m data_pipelines demo`.

State and action: x, y, z in metres in the table's frame, turn about the vertical in radians, gripper openness. The
gripper always points down: at turn 0 its frame is the table's turned half a revolution about x. Actions are the
absolute poses that were commanded, noise included; every step has one, the last too.
"""

import numpy as np

from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="tabletop_gantry",
    version="1.0.0",
    robot="simulated gantry, 4 axes and gripper",
    cameras={"primary": "observation/image_primary", "wrist": "observation/image_wrist"},
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=10.0,
    action="gripper_pose",
    proprio="pose_euler",
    gripper="state and action: 1 open, 0 closed; commands are 0 or 1",
    source="vla_jax/environments/tabletop/gantry.py",
)


def standardize(raw: Trajectory) -> Trajectory:
    state, action = raw["observation/state"], raw["action"]
    return {
        "pose": _downward(state),
        "gripper": state[:, 4],
        "target_pose": _downward(action),
        "target_gripper": action[:, 4],
        "target_valid": np.ones(len(action), bool),
    }


def _downward(numbers: np.ndarray) -> np.ndarray:
    """Poses of x, y, z, turn; the quaternion's z and w are exactly 0, so that no rounding passes for a rotation."""
    half, none = numbers[:, 3] / 2, np.zeros(len(numbers))
    quaternion = np.stack([np.cos(half), np.sin(half), none, none], axis=1)
    return np.concatenate([numbers[:, :3], quaternion], axis=1)
