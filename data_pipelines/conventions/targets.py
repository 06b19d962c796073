"""Absolute targets and measured poses of datasets that publish only the other.

Axes: time. Motions are those of `motion.py`: about the axes of the base.
"""

import numpy as np
from scipy.spatial.transform import Rotation

from data_pipelines.conventions.motion import differences_to_next
from data_pipelines.conventions.pose import pose_from_quaternion, rotation
from data_pipelines.schema import Trajectory


def pose_after(pose: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """The pose [time, 7] that each motion [time, 6] commands; NaN where one of the two is not finite."""
    finite = np.isfinite(pose).all(1) & np.isfinite(delta).all(1)
    turn = Rotation.from_euler("xyz", np.where(finite[:, None], delta[:, 3:], 0.0))
    moved = pose_from_quaternion(pose[:, :3] + delta[:, :3], (turn * rotation(pose)).as_quat())
    return np.where(finite[:, None], moved, np.float32(np.nan))


def poses_before(target_pose: np.ndarray) -> Trajectory:
    """Measured poses of a dataset that publishes only the next step's: those of the step before.

    The first step's is unknown and stands as the second's; its target does not count, so that no chunk begins there
    (`Trajectories.chunk`) and nothing learns from it.
    """
    return {
        "pose": np.concatenate([target_pose[:1], target_pose[:-1]]),
        "target_valid": np.arange(len(target_pose)) > 0,
    }


def every_step(numbers: np.ndarray) -> np.ndarray:
    """`target_valid` or `delta_valid` of a dataset whose last step, too, is commanded. Args: numbers: [time, ...]."""
    return np.ones(len(numbers), bool)


def all_but_last(numbers: np.ndarray) -> np.ndarray:
    """The same of a dataset whose commands are made of the next state. Args: numbers: [time, ...]."""
    return np.arange(len(numbers)) < len(numbers) - 1


def relabelled(state: np.ndarray) -> Trajectory:
    """What Octo's and OpenVLA's relabelling makes of measured x, y, z, roll, pitch, yaw [time, 6]: motions that are
    differences of states. The last step has none; OpenVLA drops the first, whose action in BridgeData is zero.
    """
    is_kept = every_step(state)
    is_kept[:1] = is_kept[-1:] = False
    return {"delta": differences_to_next(state), "target_valid": is_kept, "delta_valid": is_kept}


def next_openness(openness: np.ndarray) -> np.ndarray:
    """Targets of a dataset without gripper commands: the openness measured at the next step, at the last its own."""
    return np.concatenate([openness[1:], openness[-1:]])
