"""The padded vector of all embodiments: who has which places, and that the mask says so."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from data_pipelines.action_spaces import unified, unified_24
from data_pipelines.discovery import find_action_space
from vla_jax.types import InputError

N, H = 3, 2
RANDOM = np.random.default_rng(0)


def columns(*shape, **widths):
    """Columns of the schema with so many numbers; 0: a scalar."""
    made = {name: RANDOM.normal(size=(*shape, width) if width else shape) for name, width in widths.items()}
    return {name: column.astype(np.float32) for name, column in made.items()} | {"delta_valid": np.ones(shape, bool)}


def names(space, mask):
    return [dimension.name for dimension, given in zip(space.dimensions, mask) if given]


@pytest.mark.parametrize("form", [unified, unified_24])
def test_a_single_arm_has_its_motion_and_gripper(form):
    steps, future = columns(N, delta=6, target_gripper=0, pose=7), columns(N, H, delta=6, target_gripper=0)
    space = form.action_space(H)
    mask = form.available(steps)
    assert names(space, mask) == ["dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"]
    target = form.targets(steps, future)
    assert target.shape == (N, H, space.action_width)
    np.testing.assert_array_equal(target[..., :6], future["delta"])
    np.testing.assert_array_equal(target[..., 6], future["target_gripper"])
    assert (target[..., ~mask] == 0).all()


@pytest.mark.parametrize(("form", "width"), [(unified, 32), (unified_24, 24)])
def test_two_arms_of_six_joints_leave_the_seventh_masked(form, width):
    steps = columns(N, target_joints=6, left_target_joints=6, target_gripper=0, left_target_gripper=0, joints=6)
    space, mask = form.action_space(H), form.available(steps)
    assert (space.action_width, space.proprio_width) == (width, 2 * width)
    found = names(space, mask)
    assert found == [
        "gripper",
        *(f"joint_{n}" for n in range(6)),
        "left_gripper",
        *(f"left_joint_{n}" for n in range(6)),
    ]


def test_the_wide_vector_holds_a_second_arms_motion_and_a_base_the_narrow_one_does_not():
    steps = columns(N, delta=6, left_delta=6, base_delta=3)
    extra = set(names(unified.action_space(1), unified.available(steps)))
    assert {"left_dx", "left_dyaw", "base_dx", "base_dyaw"} <= extra
    assert len(extra) == 15
    assert unified_24.available(steps).sum() == 6


def test_places_do_not_overlap_and_every_name_is_one():
    for form in (unified, unified_24):
        space = form.action_space(1, "quantile")
        assert len({dimension.name for dimension in space.proprio}) == len(space.proprio)
        assert find_action_space(space.form) is form
        unscaled = {dimension.name for dimension in space.proprio if not dimension.normalize}
        assert {"gripper", "has_dx", "spare_0"} <= unscaled


def test_proprio_holds_the_measured_state_then_the_mask_of_the_action():
    steps = columns(N, delta=6, pose=7, joints=7, gripper=0)
    steps["pose"][:, 3:] = Rotation.random(N, random_state=0).as_quat()
    state = unified.proprio(steps)
    assert state.shape == (N, 64)
    np.testing.assert_allclose(state[:, :3], steps["pose"][:, :3])
    turns = Rotation.from_euler("xyz", state[:, 3:6]) * Rotation.from_quat(steps["pose"][:, 3:]).inv()
    np.testing.assert_allclose(turns.magnitude(), 0, atol=1e-5)
    np.testing.assert_array_equal(state[:, 7:14], steps["joints"])
    np.testing.assert_array_equal(state[:, 32:], np.broadcast_to(unified.available(steps), (N, 32)))


def test_a_dataset_that_commands_nothing_known_and_an_arm_of_too_many_joints_are_refused():
    with pytest.raises(InputError, match="commands none of"):
        unified.available(columns(N, pose=7))
    with pytest.raises(InputError, match="target_joints has 9 joints; at most 7"):
        unified.available(columns(N, target_joints=9))


def test_errors_are_those_of_the_first_arm():
    recorded = np.zeros((N, H, 32), np.float32)
    predicted = recorded.copy()
    predicted[..., 0], predicted[..., 6], predicted[..., 7:14] = 0.3, 0.5, 0.1
    errors = unified.motion_errors(predicted, recorded)
    for name, value in {"position_metres": 0.3, "gripper_openness": 0.5, "joint_radians": 0.1}.items():
        np.testing.assert_allclose(errors[name], value, rtol=1e-6)
