"""Octo's simulated `mujoco_manip`; not released, its feature tree is not known.

Keys are those that Octo's code reads: a motion of six numbers, then the gripper, 0 open to 255 closed.
"""

from data_pipelines.conventions.gripper import invert
from data_pipelines.conventions.targets import every_step
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="mujoco_manip",
    version="unknown",
    robot="simulated arm",
    cameras={"primary": "observation/image"},
    languages=("language_instruction",),
    numbers=("action",),
    rate_hertz=None,
    action="gripper_delta",
    delta_unit="unknown",
    proprio="none",
    gripper="action: 0 open, 255 closed",
    unknown=("The version, the feature tree, the robot, the state, the rate and the unit of the actions.",),
    is_verified=False,
    source="Octo's configs and standardisation",
)


def standardize(raw: Trajectory) -> Trajectory:
    action = raw["action"]
    return {
        "delta": action[:, :6],
        "target_gripper": invert(action[:, -1] / 255),
        "target_valid": every_step(action),
    }
