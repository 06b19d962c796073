"""Poses as x, y, z in metres and a unit quaternion x, y, z, w; rotations by scipy.

Axes: ... any, time. A rotation that a dataset cannot have meant (a quaternion of no length, a number that is not
finite) becomes NaN, which the table marks.
"""

import numpy as np
from scipy.spatial.transform import Rotation

from data_pipelines.schema import Trajectory


def pose_from_euler(position: np.ndarray, euler_radians: np.ndarray, order: str = "xyz") -> np.ndarray:
    """Euler angles to poses [..., 7]. Args: order: scipy's; "xyz" is extrinsic: roll, pitch, yaw about fixed axes."""
    return pose_from_quaternion(position, Rotation.from_euler(order, euler_radians).as_quat())


def pose_from_quaternion(position: np.ndarray, quaternion: np.ndarray) -> np.ndarray:
    """Quaternions x, y, z, w of any length; NaN where one has no direction."""
    length = np.linalg.norm(quaternion.astype(np.float64), axis=-1, keepdims=True)
    unit = quaternion / np.where(length > 1e-6, length, np.nan)
    return np.concatenate([position, unit], axis=-1).astype(np.float32)


def pose_from_quaternion_wxyz(position: np.ndarray, quaternion: np.ndarray) -> np.ndarray:
    """Quaternions whose real part comes first."""
    return pose_from_quaternion(position, np.roll(quaternion, -1, axis=-1))


def pose_from_rotation_vector(position: np.ndarray, vector_radians: np.ndarray) -> np.ndarray:
    """Axis-angle: the axis times the angle."""
    return pose_from_quaternion(position, Rotation.from_rotvec(vector_radians).as_quat())


def pose_from_matrix(matrix: np.ndarray) -> np.ndarray:
    """Homogeneous matrices [..., 4, 4], translation in the last COLUMN; transpose those of the other kind first.

    NaN where the rotation part is not one (its determinant is not near 1).
    """
    turn = matrix[..., :3, :3].astype(np.float64)
    proper = np.abs(np.linalg.det(turn) - 1) < 0.1
    quaternion = Rotation.from_matrix(np.where(proper[..., None, None], turn, np.eye(3))).as_quat()
    return pose_from_quaternion(matrix[..., :3, 3], np.where(proper[..., None], quaternion, np.nan))


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
