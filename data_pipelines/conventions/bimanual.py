"""The joint vectors of ALOHA's two arms, left before right, to the columns of `schema.py`.

Axes: time. Each arm has 6 joint angles in radians (waist, shoulder, elbow, forearm roll, wrist angle, wrist rotate)
and a gripper, normalised: 1 open, 0 closed. Source: ACT (arXiv 2304.13705) and its published recording code.
"""

import numpy as np

from data_pipelines.conventions.gripper import clip_openness
from data_pipelines.conventions.targets import every_step
from data_pipelines.schema import Trajectory

ARM = 7


def two_arms(state: np.ndarray, action: np.ndarray) -> Trajectory:
    """The right arm without a prefix. Args: state, action: [time, 14 or more]; absolute joint angles, both."""
    columns: Trajectory = {"target_valid": every_step(action)}
    for prefix, first in (("left_", 0), ("", ARM)):
        gripper = first + ARM - 1
        columns[f"{prefix}joints"] = state[:, first:gripper]
        columns[f"{prefix}gripper"] = clip_openness(state[:, gripper])
        columns[f"{prefix}target_joints"] = action[:, first:gripper]
        columns[f"{prefix}target_gripper"] = clip_openness(action[:, gripper])
    return columns
