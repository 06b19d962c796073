"""Imperial College Sawyer, seen from the wrist only, in 17 household tasks, 10 Hz.

No pose is measured; `image` repeats `wrist_image`, and the state repeats the first action's gripper (at the first step
the last one's), so that it measures nothing and is not given. Actions: displacements about the axes of the gripper,
Euler angles about z, y, x, the gripper, the episode's end.
"""

from data_pipelines.conventions.gripper import invert
from data_pipelines.conventions.motion import delta_from_euler
from data_pipelines.conventions.targets import every_step
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="imperialcollege_sawyer_wrist_cam",
    version="0.1.0",
    robot="Sawyer, Robotiq 2F-85",
    cameras={"primary": "observation/image", "wrist": "observation/wrist_image"},
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=10.0,
    action="gripper_delta",
    delta_unit="metres, radians, about the axes of the gripper",
    proprio="none",
    gripper="measured: none; commanded: 1 closed, 0 open, inverted",
    episodes={"train": 170},
    unknown=("The sign of the gripper: RDT-1B reads 1 as closed, OpenVLA and Octo as open; RDT-1B's is taken.",),
    source="TFDS catalog; the authors' README and conversion code (state, frame); RDT-1B's preprocessing (gripper, "
    "rate)",
)
DIFFERENCES = (
    "OpenVLA and Octo read the angles, which are about z, y, x, as roll, pitch, yaw.",
    "OpenVLA and Octo read the gripper command 1 as open.",
    "OpenVLA and Octo give the state for a measured gripper.",
)


def standardize(raw: Trajectory) -> Trajectory:
    action = raw["action"]
    return {
        "delta": delta_from_euler(action[:, :3], action[:, 3:6], "ZYX"),
        "target_gripper": invert(action[:, 6]),
        "target_valid": every_step(action),
    }


def upstream(raw: Trajectory) -> Trajectory:
    action = raw["action"]
    return standardize(raw) | {
        "gripper": raw["observation/state"][:, 0],
        "delta": action[:, :6],
        "target_gripper": action[:, 6],
    }
