"""ALOHA's static and DAgger sets in the RLDS build that Octo trained on, 50 Hz; the feature tree is not known.

Absolute joint angles, left arm first. Octo keeps every fifth step (10 Hz); here all steps stay.
"""

import dataclasses

from data_pipelines.conventions.bimanual import two_arms
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec

SPEC = DatasetSpec(
    name="aloha_static_dataset",
    version="unknown",
    robot="ALOHA: two ViperX 300",
    cameras={
        "primary": "observation/cam_high",
        "secondary": "observation/cam_low",
        "wrist": "observation/cam_right_wrist",
    },
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=50.0,
    action="bimanual_joints",
    proprio="joints",
    gripper="state and action: 1 open, 0 closed, normalised by the recording code",
    unknown=("The version, the feature tree and the number of episodes.",),
    is_verified=False,
    source="Octo's configs and standardisation; ACT (arXiv 2304.13705)",
)
ALIASES = (dataclasses.replace(SPEC, name="aloha_dagger_dataset"),)


def standardize(raw: Trajectory) -> Trajectory:
    return two_arms(raw["observation/state"], raw["action"])
