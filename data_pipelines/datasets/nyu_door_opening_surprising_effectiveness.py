"""NYU's door opening (VINN), a Hello Robot Stretch's wrist camera, 3 Hz. No state is published.

Actions: velocities in -0.07..0.07, and a relative gripper command (positive closes), integrated here.
"""

import numpy as np

from data_pipelines.conventions.gripper import integrate_closing
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="nyu_door_opening_surprising_effectiveness",
    version="0.1.0",
    robot="Hello Robot Stretch",
    cameras={"wrist": "observation/image"},
    languages=("observation/natural_language_instruction",),
    numbers=("action/world_vector", "action/rotation_delta", "action/gripper_closedness_action"),
    rate_hertz=3.0,
    action="gripper_velocity",
    delta_unit="unknown",
    proprio="none",
    gripper="commanded: relative, above 0.1 close, below -0.1 open, integrated",
    episodes={"train": 435, "test": 49},
    unknown=(
        "The unit of the velocities.",
        "Whether the gripper command is relative, as OpenVLA takes it, or absolute: RDT-1B saw -0.28 (open) to 0.96.",
    ),
    source="TFDS catalog; OpenVLA's transform (gripper); RT-1-X's measured bounds; rate: RDT-1B",
)
DIFFERENCES = ("Octo replaces the instruction, the same in every episode, by an empty one; here it is kept.",)


def standardize(raw: Trajectory) -> Trajectory:
    return {
        "delta": np.concatenate([raw["action/world_vector"], raw["action/rotation_delta"]], axis=1),
        "target_gripper": integrate_closing(raw["action/gripper_closedness_action"][:, 0]),
        "target_valid": np.ones(len(raw["action/world_vector"]), bool),
    }
