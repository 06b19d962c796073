"""Conventions of single datasets that a wrong sign, order or frame would break; and which datasets there are."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from data_pipelines.datasets import fmb_dataset, libero_spatial_no_noops
from data_pipelines.discovery import dataset_files, find_dataset, specs
from data_pipelines.unsupported import UNSUPPORTED
from tests.oxe_trees import read
from vla_jax.types import InputError

LENGTH = 4


def numbers(width: int) -> np.ndarray:
    return np.random.default_rng(width).uniform(-1, 1, (LENGTH, width)).astype(np.float32)


def test_every_tree_of_open_x_embodiment_has_a_dataset_or_a_reason():
    given = {spec.name for file in dataset_files().values() for spec in specs(file)}
    assert not given & UNSUPPORTED.keys()
    assert not read().keys() - given - UNSUPPORTED.keys()


def test_alohas_left_arm_comes_first_and_is_given_as_left():
    state, action = numbers(14), np.abs(numbers(15))[:, 1:]
    given = find_dataset("aloha1_put_X_into_pot_300_demos").standardize({"observation/state": state, "action": action})
    np.testing.assert_array_equal(given["left_joints"], state[:, :6])
    np.testing.assert_array_equal(given["left_target_gripper"], action[:, 6])
    np.testing.assert_array_equal(given["joints"], state[:, 7:13])
    np.testing.assert_array_equal(given["target_gripper"], action[:, 13])
    assert given["target_valid"].all()


def test_mobile_alohas_velocities_become_the_motion_of_one_step():
    action = numbers(16)
    action[:, 14:] = [0.5, -1.0]
    given = find_dataset("aloha_mobile").standardize({"observation/state": numbers(14), "action": action})
    np.testing.assert_allclose(given["base_delta"], np.tile([0.01, 0.0, -0.02], (LENGTH, 1)), rtol=1e-6)


def test_the_motion_of_a_base_is_in_its_own_frame_and_takes_the_short_way_round():
    """It faces y, drives 2 ahead, then turns across the wrap."""
    yaw = np.array([[np.pi / 2], [np.pi - 0.1], [0.1 - np.pi]], np.float32)
    raw = {"observation/position": np.array([[1, 1], [1, 3], [1, 3]], np.float32), "observation/yaw": yaw}
    given = find_dataset("gnm_dataset").standardize(raw)
    expected = [[2, 0, np.pi / 2 - 0.1], [0, 0, 0.2], [0, 0, 0]]
    np.testing.assert_allclose(given["base_delta"], expected, atol=1e-6)
    assert given["target_valid"].tolist() == [True, True, False]


def test_liberos_state_is_a_rotation_vector_and_two_fingers():
    state, action = numbers(8), numbers(7)
    state[:, 6:] = [[0.04, -0.04], [0.02, -0.02], [0.0, 0.0], [0.0, 0.0]]
    action[:, 6] = [-1, -1, 1, 1]
    raw = {"observation/state": state, "observation/joint_state": numbers(7), "action": action}
    given = find_dataset("libero_10_no_noops").standardize(raw)
    turn = Rotation.from_rotvec(state[:, 3:6])
    assert (Rotation.from_quat(given["pose"][:, 3:]) * turn.inv()).magnitude().max() < 1e-5
    np.testing.assert_allclose(given["gripper"], [1, 0.5, 0, 0], atol=1e-6)
    np.testing.assert_array_equal(given["target_gripper"], [1, 1, 0, 0])
    labelled_euler = libero_spatial_no_noops.upstream(raw)["pose"]
    assert (Rotation.from_quat(labelled_euler[:, 3:]) * turn.inv()).magnitude().max() > 0.01


def test_fmbs_gripper_is_closed_at_one_which_upstream_reads_as_open():
    action = numbers(7)
    action[:, 6] = [0, 0, 1, 1]
    raw = {
        "action": action,
        "observation/eef_pose": numbers(7),
        "observation/state_gripper_pose": np.array([0, 0, 0, 1], np.float32),
        "observation/joint_pos": numbers(7),
    }
    given, theirs = find_dataset("fmb").standardize(raw), fmb_dataset.upstream(raw)
    np.testing.assert_array_equal(given["target_gripper"], [1, 1, 0, 0])
    np.testing.assert_array_equal(given["gripper"], [1, 1, 1, 0])
    np.testing.assert_array_equal(theirs["target_gripper"], 1 - given["target_gripper"])
    np.testing.assert_array_equal(theirs["gripper"], 1 - given["gripper"])


def test_robosets_gripper_command_closes_when_positive():
    action = numbers(8)
    action[:, 7] = [-1, 0, 1, 1]
    given = find_dataset("robo_set").standardize({"action": action, "observation/state": numbers(8)})
    np.testing.assert_array_equal(given["target_gripper"], [1, 1, 0, 0])
    np.testing.assert_array_equal(given["target_joints"], action[:, :7])


def test_rh20t_with_quaternions_is_refused_instead_of_read_as_euler_angles():
    raw = {"action/tcp_base": numbers(7), "action/gripper": numbers(1), "observation/tcp_base": numbers(7)}
    with pytest.raises(InputError, match=r"rh20t.*tcp_base.*6 are expected"):
        find_dataset("rh20t").standardize(raw)
