"""DatasetSpec: all that is particular to one dataset, apart from its `standardize` function."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Feature keys are those of features.json below `steps/`, e.g. `observation/image_0`."""

    name: str
    version: str
    robot: str
    cameras: dict[str, str]
    """Camera slot -> feature key of its pictures."""
    languages: tuple[str, ...]
    """Feature keys of instructions; each sample draws evenly among those that are not empty."""
    numbers: tuple[str, ...]
    """Feature keys that `standardize` reads."""
    rate_hertz: float | None
    """Control rate; None: not published or not constant."""
    action: Literal["gripper_delta", "gripper_pose", "joint_position", "joint_velocity", "base"]
    """What the raw action commands."""
    proprio: Literal["pose_euler", "pose_quaternion", "joints", "none"]
    """What the raw state holds."""
    gripper: str
    """The raw convention of the gripper, measured and commanded, in words."""
    source: str
    """Where the facts of this file come from."""
