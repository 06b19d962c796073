"""The window at inference is the one of training: `data_pipelines.episodes` is the reference."""

import dataclasses

import numpy as np
import pytest

from vla_jax.inference.history import History, gather
from vla_jax.types import ActionSpace, CameraRequirement, DataRequirements, Dimension

REQUIREMENTS = DataRequirements(
    action_space=ActionSpace(
        form="relative_pose",
        horizon=2,
        dimensions=(Dimension(name="x", unit="metre"),),
        proprio=(Dimension(name="x", unit="metre"),),
    ),
    cameras=(
        CameraRequirement(slot="primary", height=2, width=2),
        CameraRequirement(slot="wrist", height=2, width=2),
    ),
    window=3,
    window_anchor="first",
    text_length=4,
)


@pytest.mark.parametrize(("anchor", "expected"), [("first", [1, 2, 0]), ("last", [0, 1, 2])])
def test_a_short_history_is_padded_on_the_side_of_the_anchor(anchor, expected):
    requirements = dataclasses.replace(REQUIREMENTS, window_anchor=anchor)
    history = History(requirements)
    for value in (1, 2):
        history.add({"primary": np.full((2, 2, 3), value, np.uint8)}, np.array([value], np.float32))
    tokens = np.full((1, 4), 7), np.ones((1, 4), bool)
    observation = gather([history], tokens, requirements, batch_size=2)
    assert observation.proprio[0, :, 0].tolist() == expected
    assert observation.images["primary"][0, :, 0, 0, 0].tolist() == expected
    assert observation.timestep_mask[0].tolist() == [value > 0 for value in expected]
    assert observation.image_masks["primary"][0].tolist() == [value > 0 for value in expected]
    assert not observation.image_masks["wrist"].any(), "a camera that is not there is masked"
    assert not observation.timestep_mask[1].any(), "rows without a robot are empty"


def test_a_long_history_keeps_the_newest():
    history = History(REQUIREMENTS)
    for value in range(5):
        history.add({}, np.array([value], np.float32))
    tokens = np.zeros((1, 4), int), np.ones((1, 4), bool)
    assert gather([history], tokens, REQUIREMENTS, batch_size=1).proprio[0, :, 0].tolist() == [2, 3, 4]
