"""PLEX's demonstrations of robosuite tasks (`plex_robosuite/0.0.1`), simulated Panda, 20 Hz.

Actions: robosuite's OSC_POSE, -1..1, then the gripper, -1 opens and 1 closes; float64.
"""

from data_pipelines.conventions.gripper import from_signed
from data_pipelines.conventions.targets import every_step
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="plex_robosuite",
    version="0.0.1",
    robot="simulated Franka Panda",
    cameras={"primary": "observation/image", "wrist": "observation/wrist_image"},
    languages=("language_instruction",),
    numbers=("action",),
    rate_hertz=20.0,
    action="gripper_delta",
    delta_unit="-1..1 of 0.05 metres and 0.5 radians; the rotation is a rotation vector",
    proprio="none",
    gripper="action: -1 open, 1 closed",
    episodes={"train": 402, "val": 48},
    unknown=("The layout of the 32 state numbers.",),
    source="the TFDS catalog's feature tree; PLEX (arXiv 2303.08789) and its code (OSC_POSE); robosuite's controller; "
    "the Open X-Embodiment overview sheet (rate); MultiNet's action descriptions (gripper)",
)


def standardize(raw: Trajectory) -> Trajectory:
    action = raw["action"]
    return {
        "delta": action[:, :6],
        "target_gripper": from_signed(action[:, 6], opens=-1),
        "target_valid": every_step(action),
    }
