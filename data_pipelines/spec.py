"""DatasetSpec: all that is particular to one dataset, apart from its `standardize` function."""

import dataclasses
from typing import Literal

NO_VERSION = "unknown"
"""Of a dataset whose version nobody has published."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Depth:
    """A depth camera: metres are the stored number times `metres`."""

    key: str
    metres: float | None
    """None: the unit is not published."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Feature keys are those of features.json below `steps/`, e.g. `observation/image_0`.

    A file of `datasets/` has SPEC and `standardize`, and beside them, where they apply:
    `ALIASES`, further SPECs of datasets with the same tree (another name, version or camera);
    `upstream`, as `standardize` but with the values that OpenVLA's or Octo's published code makes of this dataset
    where these contradict its true tree, and `DIFFERENCES`, a sentence for each.
    """

    name: str
    version: str
    robot: str
    cameras: dict[str, str]
    """Camera slot -> feature key of its pictures. Slots: primary, secondary, wrist, left_wrist, ..."""
    depths: dict[str, Depth] = dataclasses.field(default_factory=dict)
    """Camera slot -> its depth pictures."""
    languages: tuple[str, ...]
    """Feature keys of instructions; each sample draws evenly among those that are not empty."""
    numbers: tuple[str, ...]
    """Feature keys that `standardize` reads."""
    rate_hertz: float | None
    """Control rate; None: not published or not constant."""
    action: Literal[
        "gripper_delta",
        "gripper_pose",
        "gripper_velocity",
        "joint_position",
        "joint_velocity",
        "base",
        "bimanual_joints",
    ]
    """What the raw action commands."""
    action_range: tuple[tuple[float, float], ...] | None = None
    """Published lowest and highest of each dimension of the raw action, in the order of its keys in `numbers`."""
    delta_unit: str = "metres, radians"
    """Of the column `delta`; `unknown` where it is not published (many were scaled to -1..1 before publication)."""
    proprio: Literal["pose_euler", "pose_quaternion", "position", "joints", "base", "none"]
    """What the raw state holds."""
    gripper: str
    """The raw convention of the gripper, measured and commanded, in words."""
    episodes: dict[str, int] = dataclasses.field(default_factory=dict)
    """Published number of episodes of each split."""
    unknown: tuple[str, ...] = ()
    """Facts about the data that nobody has published and that are not guessed here."""
    is_verified: bool = True
    """False: the feature tree is not known; keys are those that published code reads."""
    source: str
    """Where the facts of this file come from."""
