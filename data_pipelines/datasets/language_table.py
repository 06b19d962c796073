"""Language-Table, an xArm that pushes blocks in a plane, 10 Hz.

State: x, y in metres of the end effector in the plane, and of its set point. Actions: displacements of the set point,
x, y in metres. No gripper, no rotation, no height: poses lie at height 0. Instructions are int32 code points. Targets:
the next state's pose.
"""

import numpy as np

from data_pipelines.conventions.motion import delta_without_rotation
from data_pipelines.conventions.pose import next_poses, planar_pose
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="language_table",
    version="0.1.0",
    robot="UFactory xArm6",
    cameras={"primary": "observation/rgb"},
    languages=("observation/instruction",),
    numbers=("action", "observation/effector_translation"),
    rate_hertz=10.0,
    action="gripper_delta",
    proprio="position",
    gripper="none, measured or commanded",
    episodes={"train": 442226},
    unknown=("The height and the rotation of the end effector, which are constant.",),
    source="google-research/language-table (tutorial's element_spec); rate: RDT-1B",
)
DIFFERENCES = ("OpenVLA and Octo command an open gripper at every step; the robot has none.",)


def standardize(raw: Trajectory) -> Trajectory:
    pose = planar_pose(raw["observation/effector_translation"])
    return {"pose": pose, "delta": delta_without_rotation(raw["action"]), **next_poses(pose)}


def upstream(raw: Trajectory) -> Trajectory:
    return standardize(raw) | {"target_gripper": np.ones(len(raw["action"]), np.float32)}
