"""RoboTurk's real data, Sawyer arms teleoperated by phones, 10 Hz. No state is published.

Actions: displacements, and a gripper command, above 0 closes.
"""

import numpy as np

from data_pipelines.conventions.gripper import invert
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="roboturk",
    version="0.1.0",
    robot="Sawyer",
    cameras={"primary": "observation/front_rgb"},
    languages=("observation/natural_language_instruction",),
    numbers=("action/world_vector", "action/rotation_delta", "action/gripper_closedness_action"),
    rate_hertz=10.0,
    action="gripper_delta",
    delta_unit="unknown",
    proprio="none",
    gripper="commanded: 1 closed, 0 and below open, inverted",
    episodes={"train": 1796, "test": 199},
    unknown=("The unit of the displacements and how `rotation_delta` writes a rotation.",),
    source="TFDS catalog; OpenVLA's transform (gripper); rate: RDT-1B",
)
DIFFERENCES = ("Octo replaces the instruction by an empty one; here it is kept.",)


def standardize(raw: Trajectory) -> Trajectory:
    return {
        "delta": np.concatenate([raw["action/world_vector"], raw["action/rotation_delta"]], axis=1),
        "target_gripper": invert(raw["action/gripper_closedness_action"][:, 0]),
        "target_valid": np.ones(len(raw["action/world_vector"]), bool),
    }
