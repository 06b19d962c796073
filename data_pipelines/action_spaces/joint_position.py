"""Absolute joint angles of one arm and the gripper, 8 numbers.

Action: seven commanded joint angles, base first, then the absolute gripper openness; entry j of the chunk at t is the
command of step t + j. Proprio: the same, measured. An arm of fewer joints is padded with 0 at the end, and the padding
is masked, as is the gripper of a dataset that commands none. Grippers are not normalised. Axes: n samples, h horizon.
"""

from typing import Literal

import numpy as np

from data_pipelines.schema import Trajectory
from vla_jax.types import ActionSpace, Dimension, InputError

VALID = "target_valid"
REQUIRED = ("joints", "target_joints", VALID)
OPTIONAL = ("target_gripper", "gripper")
NUM_JOINTS = 7


def action_space(horizon: int, normalization: Literal["none", "gaussian", "quantile"] = "none") -> ActionSpace:
    joints = tuple(Dimension(name=f"joint_{number}", unit="radian") for number in range(NUM_JOINTS))
    layout = (*joints, Dimension(name="gripper", unit="openness", normalize=False))
    return ActionSpace(
        form="joint_position", horizon=horizon, dimensions=layout, proprio=layout, normalization=normalization
    )


def available(columns: Trajectory) -> np.ndarray:
    """bool[8]: the dimensions of the action that a dataset with these columns commands."""
    for key in ("joints", "target_joints"):
        if key in columns and (count := columns[key].shape[-1]) > NUM_JOINTS:
            raise InputError(f"action space 'joint_position': {key} has {count} joints; at most {NUM_JOINTS} expected")
    return np.append(np.arange(NUM_JOINTS) < columns["target_joints"].shape[-1], "target_gripper" in columns)


def proprio(steps: Trajectory) -> np.ndarray:
    """float32[n, 8] of n steps."""
    return _vector(steps["joints"], steps.get("gripper"))


def targets(steps: Trajectory, future: Trajectory) -> np.ndarray:
    """float32[n, h, 8]: `future` has the [n, h] steps whose commands make up the chunks."""
    return _vector(future["target_joints"], future.get("target_gripper"))


def motion_errors(predicted: np.ndarray, recorded: np.ndarray) -> dict[str, np.ndarray]:
    """Errors float32[n, h] of whole actions float[n, h, 8]: mean over the joints (of the padding too), openness."""
    errors = np.abs(predicted - recorded).astype(np.float32)
    return {"joint_radians": errors[..., :NUM_JOINTS].mean(-1), "gripper_openness": errors[..., NUM_JOINTS]}


def _vector(joints: np.ndarray, gripper: np.ndarray | None) -> np.ndarray:
    vector = np.zeros((*joints.shape[:-1], NUM_JOINTS + 1), np.float32)
    vector[..., : joints.shape[-1]] = joints  # `available` refuses more
    if gripper is not None:
        vector[..., NUM_JOINTS] = gripper
    return vector
