"""EF-VLA's action space: future gripper poses relative to the present one, 10 numbers each.

Action: dx, dy, dz in metres, the first two ROWS of the relative rotation matrix, gripper openness. Entry j of the
chunk at t is inverse(T_ee(t)) @ T_target(t + j). Proprio: the same layout, absolute, in the base frame. Grippers are
not normalised. Source: EF-VLA (papers.md 2.4). Axes: n samples, h horizon.
"""

from typing import Literal

import numpy as np
from scipy.spatial.transform import Rotation

from data_pipelines.conventions.pose import rotation
from data_pipelines.schema import Trajectory
from vla_jax.types import ActionSpace, Dimension

VALID = "target_valid"
REQUIRED = ("pose", "gripper", "target_pose", "target_gripper", VALID)
ROWS = tuple(f"rotation_{row}{column}" for row in range(2) for column in range(3))


def action_space(horizon: int, normalization: Literal["none", "gaussian", "quantile"] = "none") -> ActionSpace:
    gripper = Dimension(name="gripper", unit="openness", normalize=False)

    def layout(prefix: str) -> tuple[Dimension, ...]:
        position = tuple(Dimension(name=f"{prefix}{axis}", unit="metre") for axis in "xyz")
        return (*position, *(Dimension(name=name, unit="1") for name in ROWS), gripper)

    return ActionSpace(
        form="relative_pose",
        horizon=horizon,
        dimensions=layout("d"),
        proprio=layout(""),
        normalization=normalization,
    )


def proprio(steps: Trajectory) -> np.ndarray:
    """float32[n, 10] of n steps."""
    pose = steps["pose"]
    return _vector(pose[:, :3], rotation(pose), steps["gripper"])


def targets(steps: Trajectory, future: Trajectory) -> np.ndarray:
    """float32[n, h, 10]: `steps` has n steps, `future` the [n, h] steps whose targets make up the chunks."""
    n, h = future["target_gripper"].shape
    then = future["target_pose"]
    to_gripper = rotation(steps["pose"]).as_matrix().swapaxes(1, 2)
    there = rotation(then.reshape(n * h, 7)).as_matrix().reshape(n, h, 3, 3)
    with np.errstate(invalid="ignore"):  # steps that are not finite are marked elsewhere
        moved = (then[..., :3].astype(np.float64) - steps["pose"][:, None, :3]) @ to_gripper.swapaxes(1, 2)
    rows = (to_gripper[:, None, :2] @ there).reshape(n, h, 6)
    return np.concatenate([moved, rows, future["target_gripper"][..., None]], axis=2).astype(np.float32)


def absolute(chunk: np.ndarray, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Undoes `targets`: poses float32[h, 7] in the base frame and openness float32[h].

    Args:
        chunk: float[h, 10], not normalised. Rows need not be orthonormal: Gram-Schmidt makes them so.
        pose: float[7], the gripper's present pose.
    """
    here = rotation(pose[None])
    position = here.apply(chunk[:, :3].astype(np.float64)) + pose[:3]
    quaternion = (here * Rotation.from_matrix(rows_to_matrix(chunk[:, 3:9]))).as_quat()
    return np.concatenate([position, quaternion], axis=1).astype(np.float32), chunk[:, 9].astype(np.float32)


def motion_errors(predicted: np.ndarray, recorded: np.ndarray) -> dict[str, np.ndarray]:
    """Errors float32[n, h] of whole actions float[n, h, 10]: distance, angle between rotations, openness."""
    shape, ours, theirs = predicted.shape[:2], predicted.reshape(-1, 10), recorded.reshape(-1, 10)
    turns = [Rotation.from_matrix(rows_to_matrix(rows[:, 3:9])) for rows in (ours, theirs)]
    errors = {
        "position_metres": np.linalg.norm(ours[:, :3] - theirs[:, :3], axis=1),
        "rotation_degrees": np.degrees((turns[0].inv() * turns[1]).magnitude()),
        "gripper_openness": np.abs(ours[:, 9] - theirs[:, 9]),
    }
    return {name: error.reshape(shape).astype(np.float32) for name, error in errors.items()}


def rows_to_matrix(rows: np.ndarray) -> np.ndarray:
    """float64[n, 3, 3]: Gram-Schmidt on the two rows in float[n, 6], the third their cross product."""
    first, second = rows[:, :3].astype(np.float64), rows[:, 3:6].astype(np.float64)
    first = first / np.linalg.norm(first, axis=1, keepdims=True)
    second = second - (first * second).sum(1, keepdims=True) * first
    second = second / np.linalg.norm(second, axis=1, keepdims=True)
    return np.stack([first, second, np.cross(first, second)], axis=1)


def _vector(position: np.ndarray, turn: Rotation, gripper: np.ndarray) -> np.ndarray:
    rows = turn.as_matrix()[:, :2].reshape(-1, 6)
    return np.concatenate([position, rows, gripper[:, None]], axis=1).astype(np.float32)
