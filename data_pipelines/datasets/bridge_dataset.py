"""BridgeData V2 in the RLDS build that Octo trains on (OpenVLA's `bridge_orig`), WidowX 250.

Not OXE's `bridge/0.1.0`, which holds an older recording with other features. State: x, y, z in metres in the arm's
base frame; roll, pitch, yaw in radians, extrinsic x-y-z; gripper openness (about 0..1, 1 open). The angles are
relative to the gripper's rest orientation (pointing down), a constant turn of the tool frame: relative motions are
in that frame, consistently. Actions: pose deltas, then commanded openness, continuous; binarised here. Targets: the
next state's pose. The camera flags `has_image_k` are False in published copies though pictures are there, and are
not used; an episode recorded without a second camera has black pictures in `image_1`.
"""

import numpy as np

from data_pipelines.conventions.gripper import binarize
from data_pipelines.conventions.pose import next_poses, pose_from_euler
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="bridge_dataset",
    version="1.0.0",
    robot="WidowX 250",
    cameras={"primary": "observation/image_0", "secondary": "observation/image_1"},
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=5.0,
    action="gripper_delta",
    proprio="pose_euler",
    gripper="state and action: 1 open, 0 closed, continuous; commands binarised at 0.05 and 0.95",
    source="BridgeData V2 (arXiv 2308.12952); Octo's and OpenVLA's standardisation of it",
)


def standardize(raw: Trajectory) -> Trajectory:
    state = raw["observation/state"]
    pose = pose_from_euler(state[:, :3], state[:, 3:6])
    return {
        "pose": pose,
        "gripper": np.clip(state[:, 6], 0.0, 1.0),
        "target_gripper": binarize(np.clip(raw["action"][:, 6], 0.0, 1.0)),
        **next_poses(pose),
    }
