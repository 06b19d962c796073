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

    NaN where a matrix is no such thing (the determinant of its rotation is not near 1, or its last row is not
    0, 0, 0, 1), so that a wrong order of its numbers is met at once.
    """
    turn = matrix[..., :3, :3].astype(np.float64)
    last_row = np.abs(matrix[..., 3, :] - np.array([0.0, 0.0, 0.0, 1.0])).max(-1)
    proper = (np.abs(np.linalg.det(turn) - 1) < 0.1) & (last_row < 1e-3)
    quaternion = Rotation.from_matrix(np.where(proper[..., None, None], turn, np.eye(3))).as_quat()
    return pose_from_quaternion(matrix[..., :3, 3], np.where(proper[..., None], quaternion, np.nan))


def pose_from_column_major(numbers: np.ndarray) -> np.ndarray:
    """Homogeneous matrices given as 16 numbers [..., 16], column after column."""
    return pose_from_matrix(numbers.reshape(*numbers.shape[:-1], 4, 4).swapaxes(-1, -2))


def pose_in_frame(pose: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Poses [n, 7], such as of a tool in the world, seen from frames [n, 7], such as of the robot's base."""
    inverse = rotation(frame).inv()
    position = inverse.apply(pose[:, :3].astype(np.float64) - frame[:, :3])
    turned = pose_from_quaternion(position, (inverse * rotation(pose)).as_quat())
    finite = np.isfinite(pose).all(1) & np.isfinite(frame).all(1)
    return np.where(finite[:, None], turned, np.float32(np.nan))


def planar_pose(position: np.ndarray) -> np.ndarray:
    """Of a tool that moves in a plane [n, 2] and never turns: its unpublished height is 0, its rotation none."""
    still = np.zeros((len(position), 7), np.float32)
    still[:, :2], still[:, 6] = position, 1.0
    return still


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
