"""GNM's navigation sets in the one RLDS build that Octo trained on; not released, its feature tree is not known.

Keys are those that Octo's code reads, as in the `berkeley_gnm_...` sets: `position` (x, y) and `yaw` in radians in a
world frame. Commanded is the motion to the place measured at the next step, in the robot's frame; Octo, too, makes
its actions of the positions, but keeps every third step only and scales them to the unit of the raw actions.
"""

import numpy as np

from data_pipelines.conventions.base import motion_to_next
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="gnm_dataset",
    version="unknown",
    robot="several wheeled robots",
    cameras={"primary": "observation/image"},
    languages=("language_instruction",),
    numbers=("observation/position", "observation/yaw"),
    rate_hertz=None,
    action="base",
    proprio="base",
    gripper="none",
    unknown=("The version, the feature tree and the rate; whether positions are metres.",),
    is_verified=False,
    source="Octo's configs and standardisation; the TFDS catalog's trees of berkeley_gnm_*; GNM (arXiv 2210.03370)",
)


def standardize(raw: Trajectory) -> Trajectory:
    position = raw["observation/position"]
    base = np.concatenate([position, raw["observation/yaw"].reshape(len(position), 1)], axis=1)
    return {
        "base": base,
        "base_delta": motion_to_next(base),
        "target_valid": np.arange(len(base)) < len(base) - 1,
    }
