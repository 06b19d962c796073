"""NYU Franka Play, a Franka Panda in a toy kitchen, 3 Hz.

State: seven joint angles, x, y, z in metres, roll, pitch, yaw in radians. Actions: seven joint velocities,
displacements with roll, pitch, yaw, gripper (1 open, -1 closed), the episode's end. Targets: the next state's pose.
"""

from data_pipelines.conventions.gripper import clip_openness
from data_pipelines.conventions.pose import next_poses, pose_from_euler
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec, Depth

SPEC = DatasetSpec(
    name="nyu_franka_play_dataset_converted_externally_to_rlds",
    version="0.1.0",
    robot="Franka Panda",
    cameras={"primary": "observation/image", "secondary": "observation/image_additional_view"},
    depths={
        "primary": Depth(key="observation/depth", metres=None),
        "secondary": Depth(key="observation/depth_additional_view", metres=None),
    },
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=3.0,
    action="gripper_delta",
    delta_unit="unknown",
    proprio="pose_euler",
    gripper="measured: none; commanded: 1 open, 0 and -1 closed",
    episodes={"train": 365, "val": 91},
    unknown=("The units of displacements and depth.",),
    source="TFDS catalog; OpenVLA's transform and RDT-1B's preprocessing (gripper, rate)",
)
DIFFERENCES = ("Octo replaces the instruction by an empty one; here it is kept.",)


def standardize(raw: Trajectory) -> Trajectory:
    state, action = raw["observation/state"], raw["action"]
    pose = pose_from_euler(state[:, 7:10], state[:, 10:13])
    return {
        "pose": pose,
        "joints": state[:, :7],
        "joint_velocities": action[:, :7],
        "delta": action[:, 7:13],
        "target_gripper": clip_openness(action[:, 13]),
        **next_poses(pose),
    }
