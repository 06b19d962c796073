"""One padded vector of 32 numbers for every embodiment, with its mask: `conventions/unified_vector.py`.

Axes: n samples, h horizon.
"""

import numpy as np

from data_pipelines.action_spaces import delta_pose
from data_pipelines.conventions.unified_vector import NUM_JOINTS, UnifiedVector
from data_pipelines.conventions.unified_vector import OPTIONAL as OPTIONAL
from data_pipelines.conventions.unified_vector import REQUIRED as REQUIRED
from data_pipelines.conventions.unified_vector import VALID as VALID

_VECTOR = UnifiedVector("unified", 32)
action_space, available = _VECTOR.action_space, _VECTOR.available
proprio, targets = _VECTOR.proprio, _VECTOR.targets


def absolute(chunk: np.ndarray, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the first arm: poses float32[h, 7] in the base frame that its motions lead to, and openness float32[h]."""
    return delta_pose.absolute(chunk[:, :7], pose)


def motion_errors(predicted: np.ndarray, recorded: np.ndarray) -> dict[str, np.ndarray]:
    """Errors float32[n, h] of the first arm: distance, angle between rotations, openness, mean over its joints."""
    joints = np.abs(predicted[..., 7 : 7 + NUM_JOINTS] - recorded[..., 7 : 7 + NUM_JOINTS]).mean(-1)
    errors = delta_pose.motion_errors(predicted[..., :7], recorded[..., :7])
    return errors | {"joint_radians": joints.astype(np.float32)}
