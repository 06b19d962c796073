"""EF-VLA's relative poses, there and back, against 4 x 4 matrices written out here."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from data_pipelines.action_spaces import relative_pose
from data_pipelines.trajectories import Trajectories
from data_pipelines.transforms.chunk import Chunk


def poses(number, seed):
    generator = np.random.default_rng(seed)
    turns = Rotation.random(number, rng=generator)
    return np.concatenate([generator.normal(size=(number, 3)), turns.as_quat()], axis=1).astype(np.float32)


def matrices(pose):
    out = np.tile(np.eye(4), (len(pose), 1, 1))
    out[:, :3, :3], out[:, :3, 3] = Rotation.from_quat(pose[:, 3:]).as_matrix(), pose[:, :3]
    return out


def chunk_and_future(n=6, h=5):
    pose = poses(n, seed=1)
    target = poses(n * h, seed=2).reshape(n, h, 7)
    gripper = np.random.default_rng(3).uniform(size=(n, h)).astype(np.float32)
    steps = {"pose": pose, "gripper": gripper[:, 0]}
    return pose, target, gripper, relative_pose.targets(steps, {"target_pose": target, "target_gripper": gripper})


def test_targets_are_inverse_pose_times_target_by_matrices():
    pose, target, gripper, chunk = chunk_and_future()
    for n in range(6):
        relative = np.linalg.inv(matrices(pose[n : n + 1])[0]) @ matrices(target[n])
        expected = np.concatenate([relative[:, :3, 3], relative[:, 0, :3], relative[:, 1, :3], gripper[n][:, None]], 1)
        np.testing.assert_allclose(chunk[n], expected, atol=2e-6)


def agrees(back, target):
    return np.allclose(matrices(back), matrices(target), atol=1e-5)


def test_absolute_undoes_targets():
    pose, target, gripper, chunk = chunk_and_future()
    for n in range(6):
        back, openness = relative_pose.absolute(chunk[n], pose[n])
        assert agrees(back, target[n])
        np.testing.assert_array_equal(openness, gripper[n])


def test_absolute_undoes_targets_from_rows_that_are_not_quite_orthonormal():
    pose, target, _, chunk = chunk_and_future()
    chunk[..., 3:6] *= 1.7
    chunk[..., 6:9] = 0.4 * chunk[..., 6:9] + 0.2 * chunk[..., 3:6]
    assert agrees(relative_pose.absolute(chunk[0], pose[0])[0], target[0])


def columns_instead_of_rows(chunk, pose):
    columns = relative_pose.rows_to_matrix(chunk[:, 3:9]).transpose(0, 2, 1)
    return compose(matrices(pose[None])[0], columns, chunk[:, :3])


def multiplied_from_the_left(chunk, pose):
    here = matrices(pose[None])[0]
    there = np.tile(np.eye(4), (len(chunk), 1, 1))
    there[:, :3, :3], there[:, :3, 3] = relative_pose.rows_to_matrix(chunk[:, 3:9]), chunk[:, :3]
    return as_poses(there @ here)


def compose(here, turn, move):
    there = np.tile(np.eye(4), (len(move), 1, 1))
    there[:, :3, :3], there[:, :3, 3] = turn, move
    return as_poses(here @ there)


def as_poses(matrix):
    return np.concatenate([matrix[:, :3, 3], Rotation.from_matrix(matrix[:, :3, :3]).as_quat()], axis=1)


@pytest.mark.parametrize("twin", [columns_instead_of_rows, multiplied_from_the_left])
def test_the_wrong_twins_do_not_undo_targets(twin):
    pose, target, _, chunk = chunk_and_future()
    right = compose(matrices(pose[:1])[0], relative_pose.rows_to_matrix(chunk[0, :, 3:9]), chunk[0, :, :3])
    assert agrees(right, target[0])
    assert not agrees(twin(chunk[0], pose[0]), target[0])


def test_chunk_starts_at_the_steps_own_target_and_stops_at_the_last_valid_one():
    """Targets are next poses: target[t] = pose[t + 1], none at the last step."""
    pose = poses(4, seed=4)
    steps = {
        "pose": pose,
        "gripper": np.zeros(4, np.float32),
        "target_pose": np.concatenate([pose[1:], pose[-1:]]),
        "target_gripper": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
    }
    trajectories = Trajectories(np.array([0, 4]), np.array([True, True, True, False]))
    future, mask = trajectories.chunk(Chunk(3), np.arange(4))
    assert mask.tolist() == [[True] * 3, [True, True, False], [True, False, False], [False] * 3]
    chunk = relative_pose.targets(steps, {key: column[future] for key, column in steps.items()})
    assert agrees(relative_pose.absolute(chunk[0], pose[0])[0], pose[[1, 2, 3]])
    assert agrees(relative_pose.absolute(chunk[1], pose[1])[0], pose[[2, 3, 3]])
    np.testing.assert_array_equal(chunk[1, :, 9], np.array([0.2, 0.3, 0.3], np.float32))


def test_proprio_is_absolute_in_the_same_layout():
    pose = poses(3, seed=5)
    vector = relative_pose.proprio({"pose": pose, "gripper": np.array([0.0, 0.5, 1.0], np.float32)})
    expected = matrices(pose)
    np.testing.assert_allclose(vector[:, :3], pose[:, :3])
    np.testing.assert_allclose(vector[:, 3:9], expected[:, :2, :3].reshape(3, 6), atol=1e-6)
    assert vector[:, 9].tolist() == [0.0, 0.5, 1.0]


def test_layout_names_ten_dimensions_and_leaves_the_gripper_alone():
    space = relative_pose.action_space(12, "quantile")
    assert (space.action_width, space.proprio_width, space.horizon) == (10, 10, 12)
    assert [dimension.normalize for dimension in space.dimensions] == [True] * 9 + [False]
