"""BridgeData V2 in the RLDS build that Octo trains on (OpenVLA's `bridge_orig`), WidowX 250.

Not OXE's `bridge/0.1.0`, which holds an older recording with other features. State: x, y, z in metres in the arm's
base frame; roll, pitch, yaw in radians, extrinsic x-y-z; gripper openness (about 0..1, 1 open). The angles are
relative to the gripper's rest orientation (pointing down), a constant turn of the tool frame: relative motions are
in that frame, consistently. Actions: pose deltas, then commanded openness, continuous; binarised here. Targets: the
next state's pose. The camera flags `has_image_k` are False in published copies though pictures are there, and are
not used; an episode recorded without a second camera has black pictures in `image_1`.
"""

import dataclasses

from data_pipelines.conventions.gripper import binarize, clip_openness
from data_pipelines.conventions.pose import next_poses, pose_from_euler
from data_pipelines.conventions.targets import relabelled
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
    episodes={"train": 53192, "val": 6872},
    source="BridgeData V2 (arXiv 2308.12952); Octo's and OpenVLA's standardisation of it",
)
ALIASES = (
    dataclasses.replace(SPEC, name="bridge_orig"),
    dataclasses.replace(
        SPEC,
        name="bridge_data_v2",
        version="0.0.1",
        episodes={},
        unknown=("The number of episodes: the catalog's page still shows that of bridge/0.1.0.",),
        source="TFDS catalog (the tree that `rtx.Bridge` points to); conventions as bridge_dataset",
    ),
)
DIFFERENCES = (
    "OpenVLA and Octo replace the commanded motion by differences of measured states, number by number: Euler angles "
    "jump by a whole turn where they wrap.",
    "OpenVLA drops the first step of every episode, whose action is zero.",
    "The measured gripper, which leaves 0..1 by noise, is not clipped upstream.",
)


def standardize(raw: Trajectory) -> Trajectory:
    state = raw["observation/state"]
    pose = pose_from_euler(state[:, :3], state[:, 3:6])
    return {
        "pose": pose,
        "gripper": clip_openness(state[:, 6]),
        "delta": raw["action"][:, :6],
        "target_gripper": binarize(clip_openness(raw["action"][:, 6])),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    state = raw["observation/state"]
    target_gripper = binarize(raw["action"][:, 6])
    return standardize(raw) | {"gripper": state[:, 6], "target_gripper": target_gripper, **relabelled(state[:, :6])}
