"""TOTO, a Franka Panda that scoops and pours, 30 Hz.

State: seven joint angles. Actions: displacements in -0.7..0.7, and `open_gripper`, true to open.
"""

import numpy as np

from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="toto",
    version="0.1.0",
    robot="Franka Panda",
    cameras={"primary": "observation/image"},
    languages=("observation/natural_language_instruction",),
    numbers=("action/world_vector", "action/rotation_delta", "action/open_gripper", "observation/state"),
    rate_hertz=30.0,
    action="gripper_delta",
    delta_unit="unknown",
    proprio="joints",
    gripper="measured: none; commanded: true opens",
    episodes={"train": 902, "test": 101},
    unknown=(
        "The unit of the displacements (RT-1-X measured -0.7..0.7) and how `rotation_delta` writes a rotation.",
        "Whether RT-1-X's mapping, which takes `open_gripper` for closing, knew better than the name.",
    ),
    source="TFDS catalog; OpenVLA's transform (gripper); RT-1-X's measured bounds; rate: RDT-1B",
)
DIFFERENCES = ("Octo replaces the instruction by an empty one; here it is kept.",)


def standardize(raw: Trajectory) -> Trajectory:
    return {
        "joints": raw["observation/state"],
        "delta": np.concatenate([raw["action/world_vector"], raw["action/rotation_delta"]], axis=1),
        "target_gripper": raw["action/open_gripper"].astype(np.float32),
        "target_valid": np.ones(len(raw["observation/state"]), bool),
    }
