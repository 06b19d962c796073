"""Raw grippers, rotations and motions to the one convention of schema.py."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from data_pipelines.conventions import gripper, motion, pose


def test_openness_of_every_raw_gripper_convention():
    np.testing.assert_array_equal(gripper.invert(np.array([0.0, 0.25, 1.0, 1.2])), [1, 0.75, 0, 0])
    np.testing.assert_array_equal(gripper.from_signed(np.array([-1.0, 0.0, 1.0]), opens=1), [0, 0.5, 1])
    np.testing.assert_array_equal(gripper.from_signed(np.array([-1.0, 0.0, 1.0]), opens=-1), [1, 0.5, 0])
    np.testing.assert_allclose(gripper.from_width(np.array([0.0, 0.02, 0.09]), widest=0.08), [0, 0.25, 1], rtol=1e-6)
    np.testing.assert_array_equal(gripper.open_or_closed(np.array([0.1, 0.5, 0.9, np.nan])), [0, 0, 1, np.nan])
    np.testing.assert_array_equal(gripper.integrate_opening(np.array([0, 1, 0, -1, 0])), [0, 1, 1, 0, 0])
    assert np.isnan(gripper.clip_openness(np.array([np.nan, 2.0]))).tolist() == [True, False]


def test_one_rotation_given_in_every_form_is_one_pose():
    turn = Rotation.from_euler("xyz", [[0.3, -0.4, 1.1], [3.0, 0.2, -2.5]])
    position = np.array([[0.1, 0.2, 0.3], [1.0, 2.0, 3.0]])
    matrix = np.tile(np.eye(4), (2, 1, 1))
    matrix[:, :3, :3], matrix[:, :3, 3] = turn.as_matrix(), position
    poses = [
        pose.pose_from_euler(position, turn.as_euler("xyz")),
        pose.pose_from_euler(position, turn.as_euler("ZYX"), "ZYX"),
        pose.pose_from_quaternion(position, 3 * turn.as_quat()),
        pose.pose_from_quaternion_wxyz(position, turn.as_quat(scalar_first=True)),
        pose.pose_from_rotation_vector(position, turn.as_rotvec()),
        pose.pose_from_matrix(matrix),
    ]
    for given in poses:
        np.testing.assert_allclose(given[:, :3], position, rtol=1e-6)
        assert (pose.rotation(given) * turn.inv()).magnitude().max() < 1e-6
    columns = matrix.swapaxes(1, 2).reshape(2, 16)
    np.testing.assert_array_equal(pose.pose_from_column_major(columns), poses[-1])
    assert np.isnan(pose.pose_from_column_major(matrix.reshape(2, 16))[:, 3:]).all()  # row after row: noticed


def test_pose_seen_from_a_turned_base():
    base = pose.pose_from_euler(np.array([[1.0, 0, 0]]), np.array([[0, 0, np.pi / 2]]))
    tool = pose.pose_from_euler(np.array([[1.0, 2, 3]]), np.array([[0.4, 0, np.pi / 2]]))
    expected = pose.pose_from_euler(np.array([[2.0, 0, 3]]), np.array([[0.4, 0, 0]]))
    np.testing.assert_allclose(pose.pose_in_frame(tool, base), expected, atol=1e-6)


def test_what_is_no_rotation_becomes_nan_and_stops_nothing():
    position = np.zeros((2, 3))
    assert np.isnan(pose.pose_from_quaternion(position, np.zeros((2, 4)))[:, 3:]).all()
    assert np.isnan(pose.pose_from_euler(position, np.array([[np.nan, 0, 0], [0, 0, 0]]))[:, 3]).tolist() == [
        True,
        False,
    ]
    assert np.isnan(pose.pose_from_matrix(np.stack([np.zeros((4, 4)), np.eye(4)]))[:, 3]).tolist() == [True, False]


def test_motion_is_displacement_and_turn_about_the_axes_of_the_base():
    """Yaw across the wrap: number-by-number differences jump by a whole turn."""
    euler = np.array([[0.0, 0.0, 3.0], [0.0, 0.0, -3.0], [0.0, 0.0, -3.0]])
    position = np.array([[0.0, 0, 0], [0.1, 0, 0], [0.1, 0.2, 0]])
    given = motion.delta_to_next(pose.pose_from_euler(position, euler))
    np.testing.assert_allclose(given[:, :3], [[0.1, 0, 0], [0, 0.2, 0], [0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(given[:, 5], [2 * np.pi - 6, 0, 0], atol=1e-6)
    assert motion.differences_to_next(euler)[0, 2] == pytest.approx(-6)
    roll_after_yaw = pose.pose_from_euler(np.zeros((2, 3)), np.array([[0, 0, np.pi / 2], [0.2, 0, np.pi / 2]]))
    np.testing.assert_allclose(motion.delta_to_next(roll_after_yaw)[0, 3:], [0, 0.2, 0], atol=1e-6)


def test_turns_given_as_axis_angle_or_quaternion_become_roll_pitch_yaw():
    turn = Rotation.from_euler("xyz", [[0.3, -0.4, 1.1]])
    moved = np.array([[1.0, 2.0, 3.0]])
    expected = [[1, 2, 3, 0.3, -0.4, 1.1]]
    np.testing.assert_allclose(motion.delta_from_rotation_vector(moved, turn.as_rotvec()), expected, rtol=1e-6)
    np.testing.assert_allclose(motion.delta_from_quaternion(moved, turn.as_quat()), expected, rtol=1e-6)
    np.testing.assert_array_equal(motion.delta_without_rotation(moved[:, :2]), [[1, 2, 0, 0, 0, 0]])
