"""CMU's Franka exploration (structured world models from human videos). No state is published.

Actions: end-effector position and orientation, gripper (1 open, 0 closed), the episode's end.
"""

import numpy as np

from data_pipelines.conventions.gripper import clip_openness
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="cmu_franka_exploration_dataset_converted_externally_to_rlds",
    version="0.1.0",
    robot="Franka Panda",
    cameras={"primary": "observation/highres_image"},
    languages=("language_instruction",),
    numbers=("action",),
    rate_hertz=None,
    action="gripper_delta",
    delta_unit="unknown",
    proprio="none",
    gripper="commanded: 1 open, 0 closed",
    episodes={"train": 199},
    unknown=(
        "Whether the action is a pose, as the catalog's words say, or a motion, as OpenVLA and RDT-1B take it.",
        "Its unit, and how it writes a rotation.",
    ),
    source="TFDS catalog; OpenVLA's transform and RDT-1B's preprocessing (gripper)",
)


def standardize(raw: Trajectory) -> Trajectory:
    action = raw["action"]
    return {
        "delta": action[:, :6],
        "target_gripper": clip_openness(action[:, 6]),
        "target_valid": np.ones(len(action), bool),
    }
