"""Units, frames and orders of single datasets where a raw number is easily taken for another."""

import numpy as np
from scipy.spatial.transform import Rotation

from data_pipelines.conventions.pose import rotation
from data_pipelines.discovery import find_dataset
from tests.oxe_trees import tree_of

LENGTH = 4


def raw_of(name, **given):
    """Zeros, and quaternions and matrices of no turn, where nothing is given; keys with `__` for slashes."""
    features = tree_of(name)["features"]
    raw = {key: np.zeros((LENGTH, *features[f"steps/{key}"][1]), np.float32) for key in find_dataset(name).spec.numbers}
    return raw | {key.replace("__", "/"): np.asarray(value, np.float32) for key, value in given.items()}


def rows(*row):
    return np.tile(np.array(row, np.float32), (LENGTH, 1))


def test_maniskill_gives_metres_roll_pitch_yaw_and_poses_in_the_frame_of_the_base():
    name = "maniskill_dataset_converted_externally_to_rlds"
    half = np.sqrt(0.5)
    raw = raw_of(
        name,
        action=rows(1, -0.5, 0, 0, 0, 1, 1),
        observation__tcp_pose=rows(1, 2, 3, half, 0, 0, half),  # w first: turned by 90 degrees about z
        observation__base_pose=rows(1, 0, 0, half, 0, 0, half),
    )
    given = find_dataset(name).standardize(raw)
    np.testing.assert_allclose(given["delta"], rows(0.1, -0.05, 0, 0, 0, 0.1), atol=1e-6)
    np.testing.assert_allclose(given["pose"], rows(2, 0, 3, 0, 0, 0, 1), atol=1e-6)
    theirs = find_dataset(name, "upstream").standardize(raw)
    np.testing.assert_allclose(theirs["delta"], rows(1, -0.5, 0, 0, 0, 1), atol=1e-6)


def test_taco_play_undoes_the_scales_and_takes_the_absolute_command_as_target():
    raw = raw_of(
        "taco_play", action__rel_actions_world=rows(1, 0, 0, 0, 0, 1, 1), action__actions=rows(1, 2, 3, 0, 0, 1, 1)
    )
    given = find_dataset("taco_play").standardize(raw)
    np.testing.assert_allclose(given["delta"], rows(0.02, 0, 0, 0, 0, 0.05), atol=1e-6)
    np.testing.assert_allclose(given["target_pose"][:, :3], rows(1, 2, 3))
    np.testing.assert_allclose(rotation(given["target_pose"]).as_euler("xyz")[:, 2], 1, atol=1e-6)
    assert given["target_valid"].all()


def test_bc_z_adds_residuals_to_the_axis_angle_vector():
    present, residual = np.array([0.0, np.pi / 2, 0]), np.array([0.3, 0, 0])
    raw = raw_of(
        "bc_z",
        observation__present__axis_angle=rows(*present),
        action__future__axis_angle_residual=np.tile(rows(*residual), 10),
    )
    given = find_dataset("bc_z").standardize(raw)
    target = Rotation.from_rotvec(present + residual)
    assert (rotation(given["target_pose"]) * target.inv()).magnitude().max() < 1e-6
    turn = Rotation.from_euler("xyz", given["delta"][:, 3:])
    assert (turn * Rotation.from_rotvec(present) * target.inv()).magnitude().max() < 1e-6
    assert not np.allclose(given["delta"][:, 3:], residual, atol=1e-3)  # what upstream has


def test_ucsd_kitchen_has_millimetres_and_degrees_and_moves_from_command_to_command():
    name = "ucsd_kitchen_dataset_converted_externally_to_rlds"
    action = rows(400, 100, 200, 0, 0, 90, 0, 0)
    action[2, 0], action[2, 5] = 410, 100
    given = find_dataset(name).standardize(raw_of(name, action=action))
    np.testing.assert_allclose(given["target_pose"][0, :3], [0.4, 0.1, 0.2], atol=1e-6)
    np.testing.assert_allclose(given["delta"][2], [0.01, 0, 0, 0, 0, np.radians(10)], atol=1e-6)
    assert given["delta_valid"].tolist() == [False, True, True, True]
    assert "target_gripper" not in given  # its sign is not published


def test_viola_matrices_are_read_column_after_column():
    turn = Rotation.from_euler("xyz", [0.1, 0.2, 0.3])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn.as_matrix(), [1, 2, 3]
    given = find_dataset("viola").standardize(raw_of("viola", observation__ee_states=rows(*matrix.T.reshape(-1))))
    np.testing.assert_allclose(given["pose"], rows(1, 2, 3, *turn.as_quat()), atol=1e-6)
    other = find_dataset("viola").standardize(raw_of("viola", observation__ee_states=rows(*matrix.reshape(-1))))
    assert np.isnan(other["pose"][:, 3:]).all()


def test_language_table_moves_in_a_plane_and_has_no_gripper():
    raw = raw_of("language_table", action=rows(0.01, 0.02), observation__effector_translation=rows(0.4, 0.1))
    given = find_dataset("language_table").standardize(raw)
    np.testing.assert_allclose(given["delta"], rows(0.01, 0.02, 0, 0, 0, 0))
    np.testing.assert_allclose(given["pose"], rows(0.4, 0.1, 0, 0, 0, 0, 1))
    assert "target_gripper" not in given
    assert set(find_dataset("language_table", "upstream").standardize(raw)["target_gripper"]) == {1.0}


def test_upstreams_bridge_jumps_by_a_turn_where_an_angle_wraps_and_drops_the_first_step():
    state = np.zeros((LENGTH, 7), np.float32)
    state[:, 5] = [3.1, 3.1, -3.1, -3.1]
    action = rows(0, 0, 0, 0, 0, 0.08, 1)
    raw = {"observation/state": state, "action": action}
    ours, theirs = (find_dataset("bridge_dataset", form).standardize(raw) for form in ("correct", "upstream"))
    np.testing.assert_allclose(theirs["delta"][1, 5], -6.2, rtol=1e-6)
    np.testing.assert_allclose(ours["delta"][1, 5], 0.08, rtol=1e-6)
    assert ours["target_valid"].tolist() == [True, True, True, False]
    assert "delta_valid" not in ours  # its motions are as published, the last too
    for key in ("target_valid", "delta_valid"):
        assert theirs[key].tolist() == [False, True, True, False]
