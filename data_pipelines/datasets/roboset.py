"""RoboSet (`robo_set/0.0.1`), Franka Emika with a Robotiq 2F-85 in kitchen scenes, 5 Hz.

State: seven joint angles in radians, then the gripper. Actions: absolute joint angles, then the gripper: positive
closes, zero or below opens, as OpenVLA's and Octo's standardisation reads it.
"""

import dataclasses

from data_pipelines.conventions.gripper import invert
from data_pipelines.conventions.targets import every_step
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="roboset",
    version="0.0.1",
    robot="Franka Panda, Robotiq 2F-85",
    cameras={
        "primary": "observation/image_left",
        "secondary": "observation/image_right",
        "wrist": "observation/image_wrist",
        "top": "observation/image_top",
    },
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=5.0,
    action="joint_position",
    proprio="joints",
    gripper="action: 1 closes, 0 and below opens, inverted; state: unit unknown, not given",
    episodes={"train": 18250},
    unknown=("Unit and sign of the gripper in the state.",),
    source="the TFDS catalog's feature tree of `robo_set`; RoboAgent (arXiv 2309.01918); the Open X-Embodiment "
    "overview sheet (joint positions, rate); OpenVLA's and Octo's standardisation of the gripper",
)
ALIASES = (dataclasses.replace(SPEC, name="robo_set"),)


def standardize(raw: Trajectory) -> Trajectory:
    action = raw["action"]
    return {
        "joints": raw["observation/state"][:, :7],
        "target_joints": action[:, :7],
        "target_gripper": invert(action[:, 7]),
        "target_valid": every_step(action),
    }
