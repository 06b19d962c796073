"""Open X-Embodiment's seven numbers, and joint angles, from standardised columns; what a dataset lacks is masked."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from data_pipelines.action_spaces import delta_pose, joint_position, unified
from data_pipelines.conventions.motion import delta_to_next
from data_pipelines.conventions.pose import pose_from_euler, rotation
from data_pipelines.statistics import check_columns
from vla_jax.types import InputError


@pytest.fixture
def poses():
    generator = np.random.default_rng(0)
    return pose_from_euler(generator.normal(size=(5, 3)), generator.uniform(-1.2, 1.2, (5, 3)))


def at(columns, rows):
    return {key: column[rows] for key, column in columns.items()}


def test_chunk_is_the_commands_of_the_next_steps_and_leads_through_their_poses(poses):
    columns = {"delta": delta_to_next(poses), "target_gripper": np.array([1, 1, 0, 0, 1], np.float32), "pose": poses}
    chunk = delta_pose.targets(at(columns, np.array([1])), at(columns, np.array([[1, 2, 3]])))[0]
    np.testing.assert_array_equal(chunk[:, :6], columns["delta"][1:4])
    reached, openness = delta_pose.absolute(chunk, poses[1])
    np.testing.assert_allclose(reached[:, :3], poses[2:5, :3], atol=1e-5)
    assert (rotation(reached) * rotation(poses[2:5]).inv()).magnitude().max() < 1e-5
    assert openness.tolist() == [1, 0, 0]


def test_proprio_is_position_euler_angles_and_openness_or_zero(poses):
    steps = {"delta": np.zeros((5, 6), np.float32)}
    assert not delta_pose.proprio(steps).any()
    given = delta_pose.proprio(steps | {"pose": poses, "gripper": np.full(5, 0.5, np.float32)})
    np.testing.assert_array_equal(given[:, :3], poses[:, :3])
    turned = Rotation.from_euler("xyz", given[:, 3:6]) * rotation(poses).inv()
    assert turned.magnitude().max() < 1e-5
    assert set(given[:, 6]) == {0.5}


def test_dataset_without_a_commanded_gripper_lacks_that_dimension():
    columns = {"delta": np.ones((2, 6), np.float32)}
    assert delta_pose.available(columns).tolist() == [True] * 6 + [False]
    assert delta_pose.available(columns | {"target_gripper": np.ones(2)}).all()
    assert not delta_pose.targets(columns, at(columns, np.array([[0], [1]])))[..., 6].any()


def test_errors_of_motions_are_distance_angle_and_openness():
    recorded = np.zeros((1, 2, 7), np.float32)
    predicted = recorded.copy()
    predicted[0, 1] = [0.3, 0.4, 0, 0, 0, np.pi / 2, 1]
    errors = delta_pose.motion_errors(predicted, recorded)
    np.testing.assert_allclose(errors["position_metres"], [[0, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(errors["rotation_degrees"], [[0, 90]], rtol=1e-5)
    np.testing.assert_allclose(errors["gripper_openness"], [[0, 1]])


def test_arm_of_six_joints_is_padded_and_masked():
    columns = {"joints": np.ones((3, 6), np.float32), "target_joints": np.full((3, 6), 2, np.float32)}
    assert joint_position.available(columns).tolist() == [True] * 6 + [False, False]
    assert joint_position.proprio(columns).tolist() == [[1] * 6 + [0, 0]] * 3
    columns |= {"target_gripper": np.array([0.25, 0.5, 0.75], np.float32)}
    chunk = joint_position.targets(at(columns, np.array([0])), at(columns, np.array([[1, 2]])))
    assert chunk.tolist() == [[[2] * 6 + [0, 0.5], [2] * 6 + [0, 0.75]]]


@pytest.mark.parametrize("space", [joint_position, unified])
@pytest.mark.parametrize("wide", ["joints", "target_joints"])
def test_arm_of_eight_joints_measured_or_commanded_is_refused_with_the_datasets_name(space, wide):
    columns = {
        "joints": np.ones((3, 7)),
        "target_joints": np.ones((3, 7)),
        **dict.fromkeys(("target_valid", "delta_valid"), np.ones(3, bool)),
    }
    check_columns("long_arm", columns, space.action_space(1))
    with pytest.raises(InputError, match=rf"^dataset long_arm: .*: {wide} has 8 joints; at most 7 expected"):
        check_columns("long_arm", columns | {wide: np.ones((3, 8))}, space.action_space(1))
