"""Poses as x, y, z in metres and a unit quaternion x, y, z, w; rotations by scipy.

Axes: ... any, time.
"""

import numpy as np
from scipy.spatial.transform import Rotation

from data_pipelines.schema import Trajectory


def pose_from_euler(position: np.ndarray, euler_radians: np.ndarray) -> np.ndarray:
    """Extrinsic x-y-z Euler angles (roll, pitch, yaw about the fixed base axes) to poses [..., 7]."""
    return pose_from_quaternion(position, Rotation.from_euler("xyz", euler_radians).as_quat())


def pose_from_quaternion(position: np.ndarray, quaternion: np.ndarray) -> np.ndarray:
    """Quaternions x, y, z, w of any length; NaN where one has no direction."""
    length = np.linalg.norm(quaternion.astype(np.float64), axis=-1, keepdims=True)
    unit = quaternion / np.where(length > 1e-6, length, np.nan)
    return np.concatenate([position, unit], axis=-1).astype(np.float32)


def next_poses(pose: np.ndarray) -> Trajectory:
    """Targets of a dataset without commanded poses: the pose measured at the next step, none at the last one."""
    return {
        "target_pose": np.concatenate([pose[1:], pose[-1:]]),
        "target_valid": np.arange(len(pose)) < len(pose) - 1,
    }


def rotation(pose: np.ndarray) -> Rotation:
    """Of poses [n, 7]. A pose that is not finite gives the identity, so that one bad record stops nothing else."""
    quaternion = pose[:, 3:].astype(np.float64)
    usable = np.isfinite(quaternion).all(1) & (np.linalg.norm(quaternion, axis=1) > 1e-6)
    return Rotation.from_quat(np.where(usable[:, None], quaternion, [0.0, 0.0, 0.0, 1.0]))
