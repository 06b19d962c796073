"""Targets and poses that are made of the other, and motions in any order of Euler angles."""

import numpy as np
from scipy.spatial.transform import Rotation

from data_pipelines.conventions.motion import delta_between, delta_from_euler
from data_pipelines.conventions.pose import pose_from_euler
from data_pipelines.conventions.targets import all_but_last, every_step, next_openness, pose_after, poses_before

RANDOM = np.random.default_rng(0)
POSE = pose_from_euler(RANDOM.normal(size=(5, 3)), RANDOM.uniform(-3, 3, (5, 3)))


def test_pose_after_undoes_the_motion_between():
    delta = delta_between(POSE, POSE[::-1])
    after = pose_after(POSE, delta)
    np.testing.assert_allclose(after[:, :3], POSE[::-1, :3], atol=1e-5)
    turn = Rotation.from_quat(after[:, 3:]) * Rotation.from_quat(POSE[::-1, 3:]).inv()
    assert turn.magnitude().max() < 1e-5


def test_pose_after_is_nan_where_pose_or_motion_is_not_finite():
    pose, delta = POSE.copy(), np.zeros((5, 6), np.float32)
    pose[1, 0], delta[3, 4] = np.nan, np.inf
    assert np.isnan(pose_after(pose, delta)).all(1).tolist() == [False, True, False, True, False]


def test_poses_before_are_the_targets_one_step_late_and_the_first_has_no_target():
    given = poses_before(POSE)
    np.testing.assert_array_equal(given["pose"][1:], POSE[:-1])
    assert given["target_valid"].tolist() == [False, True, True, True, True]


def test_next_openness_is_one_step_early_and_stays_at_the_end():
    assert next_openness(np.array([1.0, 0.5, 0.0])).tolist() == [0.5, 0.0, 0.0]


def test_every_step_has_a_target():
    assert every_step(POSE).tolist() == [True] * 5


def test_commands_made_of_the_next_state_end_one_step_early():
    assert all_but_last(POSE).tolist() == [True] * 4 + [False]
    assert all_but_last(POSE[:1]).tolist() == [False]


def test_euler_angles_of_another_order_become_roll_pitch_yaw():
    turns = np.array([[0.3, 0.0, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, 0.3]])
    still = np.zeros((3, 3))
    yaw_first = [[0, 0, 0.3], [0, 0.3, 0], [0.3, 0, 0]]
    np.testing.assert_allclose(delta_from_euler(still, turns, "ZYX")[:, 3:], yaw_first, atol=1e-6)
    np.testing.assert_allclose(
        delta_from_euler(still, turns, "zxy")[:, 3:], [[0, 0, 0.3], [0.3, 0, 0], [0, 0.3, 0]], atol=1e-6
    )
