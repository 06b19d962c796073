"""OpenVLA's six Franka-Tabletop fine-tuning sets (`tdroid_...`), 5 Hz; not released, their feature tree is not known.

Keys and layout are those that OpenVLA's code reads: `cartesian_position`, x, y, z in metres and roll, pitch, yaw in
the base frame; actions are motions, then the gripper, binarised. Targets: the next state's pose.
"""

import dataclasses

from data_pipelines.conventions.gripper import binarize, clip_openness
from data_pipelines.conventions.pose import next_poses, pose_from_euler
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec, Depth

SPEC = DatasetSpec(
    name="tdroid_carrot_in_bowl",
    version="unknown",
    robot="Franka Panda",
    cameras={"primary": "observation/static_image"},
    depths={"primary": Depth(key="observation/static_depth_image", metres=None)},
    languages=("language_instruction",),
    numbers=("action", "observation/cartesian_position"),
    rate_hertz=5.0,
    action="gripper_delta",
    delta_unit="unknown",
    proprio="pose_euler",
    gripper="action: 1 open as OpenVLA reads it, binarised at 0.05 and 0.95; state: `observation/gripper_position`, "
    "sign unknown, not given",
    episodes={"train": 50},
    unknown=("The version, the feature tree, the sign of the measured gripper, the unit of the depth pictures.",),
    is_verified=False,
    source="OpenVLA's configs and standardisation (arXiv 2406.09246)",
)
_DEMONSTRATIONS = {
    "tdroid_pour_corn_in_pot": 50,
    "tdroid_flip_pot_upright": 10,
    "tdroid_move_object_onto_plate": 150,
    "tdroid_knock_object_over": 70,
    "tdroid_cover_object_with_towel": 45,
}
ALIASES = tuple(
    dataclasses.replace(SPEC, name=name, episodes={"train": count}) for name, count in _DEMONSTRATIONS.items()
)


def standardize(raw: Trajectory) -> Trajectory:
    state, action = raw["observation/cartesian_position"], raw["action"]
    pose = pose_from_euler(state[:, :3], state[:, 3:6])
    return {
        "pose": pose,
        "delta": action[:, :6],
        "target_gripper": binarize(clip_openness(action[:, -1])),
        **next_poses(pose),
    }
