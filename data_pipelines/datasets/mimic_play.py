"""MimicPlay's robot episodes (`mimic_play/0.0.1`), Franka, 15 Hz, operational space control.

State: seven joint angles in radians; the end effector's pose is stored too, but the order of its quaternion is not
published, and neither are unit and sign of the gripper. There are no instructions in words in the original data.
"""

from data_pipelines.conventions.targets import every_step
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="mimic_play",
    version="0.0.1",
    robot="Franka Panda",
    cameras={
        "primary": "observation/image/front_image_1",
        "secondary": "observation/image/front_image_2",
        "wrist": "observation/wrist_image/wrist_image",
    },
    languages=("language_instruction",),
    numbers=("action", "observation/state/joint_positions"),
    rate_hertz=15.0,
    action="gripper_delta",
    delta_unit="unknown",
    proprio="joints",
    gripper="state and action: unit and sign not published, not given",
    episodes={"train": 378},
    unknown=(
        "Unit, frame and rotation of the actions.",
        "The order of the quaternion in `observation/state/ee_pose`.",
        "Unit and sign of the gripper.",
    ),
    source="the TFDS catalog's feature tree; MimicPlay (arXiv 2302.12422); the Open X-Embodiment overview sheet",
)


def standardize(raw: Trajectory) -> Trajectory:
    return {
        "joints": raw["observation/state/joint_positions"],
        "delta": raw["action"][:, :6],
        "target_valid": every_step(raw["action"]),
    }
