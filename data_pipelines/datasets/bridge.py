"""BridgeData as Open X-Embodiment distributes it (`bridge/0.1.0`, OpenVLA's `bridge_oxe`), WidowX 250, 5 Hz.

An older recording of what `bridge_dataset` holds, with one camera and a dict of actions. State: x, y, z in metres,
roll, pitch, yaw in radians (extrinsic x-y-z), gripper openness. Actions: displacements and `open_gripper`, true to
open. Targets: the next state's pose. The action of an episode's first step is zero.
"""

import dataclasses

import numpy as np

from data_pipelines.conventions.gripper import clip_openness
from data_pipelines.conventions.pose import next_poses, pose_from_euler
from data_pipelines.conventions.targets import relabelled
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="bridge",
    version="0.1.0",
    robot="WidowX 250",
    cameras={"primary": "observation/image"},
    languages=("observation/natural_language_instruction",),
    numbers=("action/world_vector", "action/rotation_delta", "action/open_gripper", "observation/state"),
    rate_hertz=5.0,
    action="gripper_delta",
    proprio="pose_euler",
    gripper="measured: 1 open; commanded: true opens",
    episodes={"train": 25460, "test": 3475},
    unknown=("The layout of `state` is not described; OpenVLA reads pose and gripper as in bridge_dataset.",),
    source="TFDS catalog at commit 12431886; OpenVLA's transform; RT-1-X's action mapping (gripper sign)",
)
ALIASES = (dataclasses.replace(SPEC, name="bridge_oxe"),)
DIFFERENCES = (
    "OpenVLA's configuration names a second camera `image_1`; the tree has only `image`.",
    "OpenVLA replaces the commanded motion by differences of measured states, number by number: Euler angles jump by "
    "a whole turn where they wrap.",
    "OpenVLA drops the first step of every episode, whose action is zero.",
    "The measured gripper, which leaves 0..1 by noise, is not clipped upstream.",
)


def standardize(raw: Trajectory) -> Trajectory:
    state = raw["observation/state"]
    pose = pose_from_euler(state[:, :3], state[:, 3:6])
    return {
        "pose": pose,
        "gripper": clip_openness(state[:, 6]),
        "delta": np.concatenate([raw["action/world_vector"], raw["action/rotation_delta"]], axis=1),
        "target_gripper": raw["action/open_gripper"].astype(np.float32),
        **next_poses(pose),
    }


def upstream(raw: Trajectory) -> Trajectory:
    state = raw["observation/state"]
    return standardize(raw) | {"gripper": state[:, 6], **relabelled(state[:, :6])}
