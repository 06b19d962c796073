"""Conq, Boston Dynamics' Spot with its arm, dragging a vacuum hose (`conq_hose_manipulation/0.0.1`).

Actions: the hand's motion in the frame of the body (position, then extrinsic x-y-z Euler angles: the new hand pose is
motion times old pose), then the gripper's open fraction. The state has joints, velocities and forces of legs and arm
together, but no hand pose.
"""

from data_pipelines.conventions.gripper import clip_openness
from data_pipelines.conventions.targets import every_step
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="conq_hose_manipulation",
    version="0.0.1",
    robot="Boston Dynamics Spot with arm",
    cameras={
        "primary": "observation/frontleft_fisheye_image",
        "secondary": "observation/frontright_fisheye_image",
        "wrist": "observation/hand_color_image",
    },
    languages=("language_instruction",),
    numbers=("action",),
    rate_hertz=None,
    action="gripper_delta",
    proprio="none",
    gripper="action: open fraction, 1 open",
    episodes={"train": 113, "val": 26},
    unknown=(
        "Which of the 66 state numbers are the arm's joints.",
        "The rate: Open X-Embodiment's overview says 30 Hz, the authors' code measured 7.7.",
    ),
    source="the TFDS catalog's feature tree; the authors' RLDS builder (v1.1, one more action number) and robot code",
)


def standardize(raw: Trajectory) -> Trajectory:
    action = raw["action"]
    return {
        "delta": action[:, :6],
        "target_gripper": clip_openness(action[:, 6]),
        "target_valid": every_step(action),
    }
