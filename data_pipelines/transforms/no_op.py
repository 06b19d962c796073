"""Steps at which the robot is told to do nothing.

Source: OpenVLA-OFT's `is_noop`: the norm of the commanded motion (the six numbers before the gripper) is below a
threshold, and the gripper is commanded as at the step before; at an episode's first step the motion alone counts.
Axes: n steps of all episodes in order.
"""

import dataclasses

import numpy as np

from data_pipelines.conventions.motion import delta_between
from data_pipelines.schema import Trajectory


@dataclasses.dataclass(frozen=True)
class NoOps:
    threshold: float = 1e-4
    """In the unit of the column `delta`; without it, of the way from pose to commanded pose in metres and radians."""

    def __call__(self, columns: Trajectory, first_step: np.ndarray) -> np.ndarray:
        """bool[n]; steps with numbers that are not finite are none.

        Args: columns: `delta`, or `pose` and `target_pose`; `target_gripper` where there is one. first_step:
        int64[episode + 1].
        """
        motion = columns["delta"] if "delta" in columns else delta_between(columns["pose"], columns["target_pose"])
        still = np.linalg.norm(motion.astype(np.float64), axis=1) < self.threshold
        if "target_gripper" in columns:
            gripper = columns["target_gripper"]
            same = np.append(False, gripper[1:] == gripper[:-1])
            starts = first_step[:-1]
            same[starts[starts < len(same)]] = True
            still &= same
        return still


def can_tell(columns: Trajectory) -> bool:
    return "delta" in columns or {"pose", "target_pose"} <= columns.keys()
