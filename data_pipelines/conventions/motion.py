"""Motions between poses, as the column `delta`: x, y, z in metres, then roll, pitch, yaw in radians.

Axes: time. A motion is about the axes of the base: position after minus position before, and the rotation R of
`after = R before` as extrinsic x-y-z angles.
"""

import numpy as np
from scipy.spatial.transform import Rotation

from data_pipelines.conventions.pose import rotation


def roll_pitch_yaw(turn: Rotation) -> np.ndarray:
    """float32[time, 3]: extrinsic x-y-z angles in radians, roll and yaw in (-pi, pi], pitch in [-pi/2, pi/2]."""
    return turn.as_euler("xyz", suppress_warnings=True).astype(np.float32)


def delta_from_rotation_vector(displacement: np.ndarray, vector_radians: np.ndarray) -> np.ndarray:
    """Turns given as axis times angle."""
    return _delta(displacement, Rotation.from_rotvec(vector_radians))


def delta_from_euler(displacement: np.ndarray, euler_radians: np.ndarray, order: str) -> np.ndarray:
    """Turns given as Euler angles in another order than roll, pitch, yaw. Args: order: scipy's."""
    return _delta(displacement, Rotation.from_euler(order, euler_radians))


def delta_from_quaternion(displacement: np.ndarray, quaternion: np.ndarray) -> np.ndarray:
    """Turns given as quaternions x, y, z, w of any length; one of no length turns nothing."""
    return _delta(displacement, rotation(np.concatenate([displacement, quaternion], axis=1)))


def delta_without_rotation(displacement: np.ndarray) -> np.ndarray:
    """Of robots that move x, y (z stays 0) or x, y, z and never turn. Args: displacement: [time, 2 or 3]."""
    still = np.zeros((len(displacement), 6), np.float32)
    still[:, : displacement.shape[1]] = displacement
    return still


def delta_between(pose: np.ndarray, target_pose: np.ndarray) -> np.ndarray:
    """From each pose [time, 7] to the commanded one of the same step; NaN where one of them is not finite."""
    moved = _delta(target_pose[:, :3] - pose[:, :3], rotation(target_pose) * rotation(pose).inv())
    finite = np.isfinite(pose).all(1) & np.isfinite(target_pose).all(1)
    return np.where(finite[:, None], moved, np.float32(np.nan))


def delta_to_next(pose: np.ndarray) -> np.ndarray:
    """The motion to the pose measured at the next step; none at the last step."""
    return delta_between(pose, np.concatenate([pose[1:], pose[-1:]]))


def differences_to_next(numbers: np.ndarray) -> np.ndarray:
    """Next row minus this row, number by number, 0 at the last step: what Octo's and OpenVLA's relabelling does with
    Euler angles, which is no rotation and jumps where an angle wraps.
    """
    return np.concatenate([np.diff(numbers, axis=0), np.zeros_like(numbers[-1:])]).astype(np.float32)


def _delta(displacement: np.ndarray, turn: Rotation) -> np.ndarray:
    return np.concatenate([displacement, roll_pitch_yaw(turn)], axis=1).astype(np.float32)
