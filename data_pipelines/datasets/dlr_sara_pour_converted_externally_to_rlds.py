"""DLR SARA, an arm that pours from a thermos that it holds, and one that places a grid clamp that it holds, 10 Hz.

State: x, y, z in metres, Euler angles by scipy's as_euler("zxy"), and, with the grid clamp, a wrench, which has no
column. Actions: the matrix that takes this state's pose to the next one's when multiplied from the left, as
translation and "zxy" angles (a turn about the BASE moves the tool, so that the translation is no displacement), then 1
for the closed gripper. Targets: the next state's pose; `delta` is the motion to it.
"""

import dataclasses

from data_pipelines.conventions.gripper import invert
from data_pipelines.conventions.motion import delta_to_next
from data_pipelines.conventions.pose import next_poses, pose_from_euler
from data_pipelines.conventions.targets import all_but_last
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="dlr_sara_pour_converted_externally_to_rlds",
    version="0.1.0",
    robot="DLR SARA",
    cameras={"primary": "observation/image"},
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=10.0,
    action="gripper_delta",
    proprio="pose_euler",
    gripper="measured: none; commanded: 1 closed, inverted; closed throughout",
    episodes={"train": 100},
    source="TFDS catalog; the authors' conversion code (filter.py: left-multiplied matrices, gripper); RDT-1B's "
    "preprocessing (sign of the gripper, seen in pictures); rate: Open X-Embodiment's overview",
)
ALIASES = (dataclasses.replace(SPEC, name="dlr_sara_grid_clamp_converted_externally_to_rlds", episodes={"train": 107}),)
DIFFERENCES = (
    'OpenVLA and Octo read "zxy" angles, of state and action, as roll, pitch, yaw.',
    "OpenVLA and Octo take the translation of the left-multiplied matrix for a displacement of the tool.",
    "OpenVLA and Octo read the closed gripper's 1 as open.",
)


def standardize(raw: Trajectory) -> Trajectory:
    state = raw["observation/state"]
    pose = pose_from_euler(state[:, :3], state[:, 3:6], "zxy")
    return {
        "pose": pose,
        "delta": delta_to_next(pose),
        "delta_valid": all_but_last(pose),
        "target_gripper": invert(raw["action"][:, 6]),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    state, action = raw["observation/state"], raw["action"]
    pose = pose_from_euler(state[:, :3], state[:, 3:6])
    return {
        "pose": pose,
        "delta": action[:, :6],
        "target_gripper": action[:, 6],
        **next_poses(pose),
    }
