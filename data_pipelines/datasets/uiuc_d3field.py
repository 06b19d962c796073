"""UIUC D3Field, a Kinova Gen3 seen by four RGB-D cameras, 1 Hz (every tenth recorded frame); no instructions.

State: the homogeneous matrix of the gripper's base, in metres. Actions: how far it moved since the recorded frame
before, a tenth of a step that is over, which commands nothing and is not given. Targets: the next state's pose; `delta`
is the motion to it. Depth is in millimetres.
"""

import numpy as np

from data_pipelines.conventions.motion import delta_to_next
from data_pipelines.conventions.pose import next_poses, pose_from_matrix
from data_pipelines.conventions.targets import all_but_last, every_step
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec, Depth

SLOTS = {"primary": 1, "secondary": 2, "tertiary": 3, "quaternary": 4}
SPEC = DatasetSpec(
    name="uiuc_d3field",
    version="0.1.0",
    robot="Kinova Gen3, Robotiq gripper",
    cameras={slot: f"observation/image_{number}" for slot, number in SLOTS.items()},
    depths={slot: Depth(key=f"observation/depth_{number}", metres=0.001) for slot, number in SLOTS.items()},
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=1.0,
    action="gripper_delta",
    proprio="pose_quaternion",
    gripper="none, measured or commanded",
    episodes={"train": 192},
    unknown=("Whether the matrices are in the arm's base frame.", "The gripper."),
    source="TFDS catalog; the authors' conversion code (actions, matrices, empty instructions) and "
    "WangYixuan12/d3fields (depth); rate: Open X-Embodiment's overview",
)
DIFFERENCES = (
    "OpenVLA and Octo take the motion since the recorded frame before for the commanded one.",
    "OpenVLA and Octo command no rotation and a closed gripper at every step.",
)


def standardize(raw: Trajectory) -> Trajectory:
    pose = pose_from_matrix(raw["observation/state"])
    return {"pose": pose, "delta": delta_to_next(pose), "delta_valid": all_but_last(pose), **next_poses(pose)}


def upstream(raw: Trajectory) -> Trajectory:
    action = raw["action"]
    return standardize(raw) | {
        "delta": np.concatenate([action, np.zeros_like(action)], axis=1),
        "delta_valid": every_step(action),
        "target_gripper": np.zeros(len(action), np.float32),
    }
