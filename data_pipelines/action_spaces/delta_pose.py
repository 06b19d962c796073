"""Open X-Embodiment's action: a commanded motion and the gripper, 7 numbers.

Action: x, y, z, roll, pitch, yaw of the column `delta`, as published (see the SPEC's `delta_unit`), then the absolute
gripper openness. Entry j of the chunk at t is the command of step t + j. Proprio: x, y, z, roll, pitch, yaw of the
measured pose, and openness; 0 where a dataset has none. Without a commanded gripper that dimension is
masked. Grippers are not normalised. Source: Octo, OpenVLA. Axes: n samples, h horizon.
"""

from typing import Literal

import numpy as np
from scipy.spatial.transform import Rotation

from data_pipelines.conventions.motion import roll_pitch_yaw
from data_pipelines.conventions.pose import rotation
from data_pipelines.schema import Trajectory
from vla_jax.types import ActionSpace, Dimension

VALID = "delta_valid"
"""The column that says which steps have a target."""
REQUIRED = ("delta", VALID)
OPTIONAL = ("target_gripper", "pose", "gripper")
ANGLES = ("roll", "pitch", "yaw")


def action_space(horizon: int, normalization: Literal["none", "gaussian", "quantile"] = "none") -> ActionSpace:
    gripper = Dimension(name="gripper", unit="openness", normalize=False)

    def layout(prefix: str) -> tuple[Dimension, ...]:
        position = tuple(Dimension(name=f"{prefix}{axis}", unit="metre") for axis in "xyz")
        return (*position, *(Dimension(name=f"{prefix}{angle}", unit="radian") for angle in ANGLES), gripper)

    return ActionSpace(
        form="delta_pose",
        horizon=horizon,
        dimensions=layout("d"),
        proprio=layout(""),
        normalization=normalization,
    )


def available(columns: Trajectory) -> np.ndarray:
    """bool[7]: the dimensions of the action that a dataset with these columns commands."""
    return np.array([True] * 6 + ["target_gripper" in columns])


def proprio(steps: Trajectory) -> np.ndarray:
    """float32[n, 7] of n steps."""
    vector = np.zeros((len(steps["delta"]), 7), np.float32)
    if "pose" in steps:
        vector[:, :3] = steps["pose"][:, :3]
        vector[:, 3:6] = roll_pitch_yaw(rotation(steps["pose"]))
    if "gripper" in steps:
        vector[:, 6] = steps["gripper"]
    return vector


def targets(steps: Trajectory, future: Trajectory) -> np.ndarray:
    """float32[n, h, 7]: `future` has the [n, h] steps whose commands make up the chunks."""
    delta = future["delta"]
    gripper = future.get("target_gripper", np.zeros(delta.shape[:2], np.float32))
    return np.concatenate([delta, gripper[..., None]], axis=-1).astype(np.float32)


def absolute(chunk: np.ndarray, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Poses float32[h, 7] in the base frame that the motions of a chunk lead to one after another, and openness.

    Args:
        chunk: float[h, 7], not normalised, in metres and radians.
        pose: float[7], the gripper's present pose.
    """
    position = pose[:3] + np.cumsum(chunk[:, :3].astype(np.float64), axis=0)
    here, quaternions = rotation(pose[None])[0], []
    for turn in Rotation.from_euler("xyz", chunk[:, 3:6]):
        here = turn * here
        quaternions.append(here.as_quat())
    return np.concatenate([position, quaternions], axis=1).astype(np.float32), chunk[:, 6].astype(np.float32)


def motion_errors(predicted: np.ndarray, recorded: np.ndarray) -> dict[str, np.ndarray]:
    """Errors float32[n, h] of whole actions float[n, h, 7]: distance, angle between rotations, openness."""
    shape, ours, theirs = predicted.shape[:2], predicted.reshape(-1, 7), recorded.reshape(-1, 7)
    turns = [Rotation.from_euler("xyz", rows[:, 3:6]) for rows in (ours, theirs)]
    errors = {
        "position_metres": np.linalg.norm(ours[:, :3] - theirs[:, :3], axis=1),
        "rotation_degrees": np.degrees((turns[0].inv() * turns[1]).magnitude()),
        "gripper_openness": np.abs(ours[:, 6] - theirs[:, 6]),
    }
    return {name: error.reshape(shape).astype(np.float32) for name, error in errors.items()}
