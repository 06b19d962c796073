"""CMU IAM Lab Pickup Insert, a Franka Panda that picks blocks and inserts one, 20 Hz.

State: seven joint angles, the gripper, torques and forces, which have no column. Actions: the absolute pose measured
at the next step, x, y, z in metres and quaternion w, x, y, z, and the gripper there. The measured pose is the previous
action's. Gripper: 1 open; 0 throughout episodes that insert.
"""

from data_pipelines.conventions.gripper import clip_openness
from data_pipelines.conventions.motion import delta_between, delta_from_quaternion
from data_pipelines.conventions.pose import pose_from_quaternion_wxyz
from data_pipelines.conventions.targets import every_step, poses_before
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="iamlab_cmu_pickup_insert_converted_externally_to_rlds",
    version="0.1.0",
    robot="Franka Panda",
    cameras={"primary": "observation/image", "wrist": "observation/wrist_image"},
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=20.0,
    action="gripper_pose",
    proprio="joints",
    gripper="measured and commanded: 1 open, 0 closed",
    episodes={"train": 631},
    unknown=("The pose measured at an episode's first step.",),
    source="TFDS catalog; the authors' README and conversion code (actions, order of the quaternion, gripper, rate)",
)
DIFFERENCES = (
    "OpenVLA and Octo take the absolute pose in the action for a displacement.",
    "OpenVLA and Octo read the quaternion, whose real part comes first, as if it came last.",
    "OpenVLA and Octo give no measured pose.",
)


def standardize(raw: Trajectory) -> Trajectory:
    state, action = raw["observation/state"], raw["action"]
    target_pose = pose_from_quaternion_wxyz(action[:, :3], action[:, 3:7])
    measured = poses_before(target_pose)
    return {
        "gripper": clip_openness(state[:, 7]),
        "joints": state[:, :7],
        "delta": delta_between(measured["pose"], target_pose),
        "delta_valid": measured["target_valid"],
        "target_pose": target_pose,
        "target_gripper": clip_openness(action[:, 7]),
        **measured,
    }


def upstream(raw: Trajectory) -> Trajectory:
    action, ours = raw["action"], standardize(raw)
    misread = delta_from_quaternion(action[:, :3], action[:, 3:7])
    kept = {key: ours[key] for key in ("gripper", "joints", "target_gripper")}
    return kept | {"delta": misread, "target_valid": every_step(action)}
