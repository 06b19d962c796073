"""Mobile ALOHA (`aloha_mobile/0.0.1` of Open X-Embodiment), two ViperX 300 arms on a wheeled base, 50 Hz.

Absolute joint angles, left arm first; then the base's linear (metres a second) and angular (radians a second)
velocity, which over one step are its commanded motion, in its own frame. Octo keeps every fifth step (10 Hz) and the
velocities as they are; here all steps stay.
"""

import dataclasses

import numpy as np

from data_pipelines.conventions.bimanual import two_arms
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

RATE_HERTZ = 50.0

SPEC = DatasetSpec(
    name="aloha_mobile_dataset",
    version="0.0.1",
    robot="Mobile ALOHA: two ViperX 300 on an AgileX Tracer",
    cameras={
        "primary": "observation/cam_high",
        "wrist": "observation/cam_right_wrist",
        "left_wrist": "observation/cam_left_wrist",
    },
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=RATE_HERTZ,
    action="bimanual_joints",
    proprio="joints",
    gripper="state and action: 1 open, 0 closed, normalised by the recording code",
    episodes={"train": 276},
    source="the TFDS catalog's feature tree of `aloha_mobile`; Mobile ALOHA (arXiv 2401.02117); Octo's action encoding",
)
ALIASES = (dataclasses.replace(SPEC, name="aloha_mobile"),)


def standardize(raw: Trajectory) -> Trajectory:
    action = raw["action"]
    forward, turn = action[:, 14] / RATE_HERTZ, action[:, 15] / RATE_HERTZ
    return {
        **two_arms(raw["observation/state"], action),
        "base_delta": np.stack([forward, np.zeros_like(forward), turn], axis=1),
    }
