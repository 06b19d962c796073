"""Raw conventions to the one convention of schema.py."""

import json

import numpy as np
from scipy.spatial.transform import Rotation

from data_pipelines import datasets
from data_pipelines.conventions.gripper import binarize, integrate_closing
from data_pipelines.discovery import find_dataset, source_digest
from tests.rlds_episodes import BRIDGE, FRACTAL, bridge_episode, fractal_episode


def raw(spec, episode):
    return {key: np.asarray(episode[f"steps/{key}"], np.float32) for key in spec.numbers}


def test_binarized_gripper_is_what_it_is_on_the_way_to():
    openness = np.array([0.5, 1.0, 0.7, 0.3, 0.0, 0.2, 0.96, 0.4], np.float32)
    np.testing.assert_array_equal(binarize(openness), np.array([1, 1, 0, 0, 0, 1, 1, 0.4], np.float32))


def test_relative_closing_becomes_openness():
    np.testing.assert_array_equal(integrate_closing(np.array([0, 0.05, 1, 0, -1, 0])), [1, 1, 0, 0, 1, 1])
    np.testing.assert_array_equal(integrate_closing(np.array([0, -1.0, 0])), [0, 1, 1])
    np.testing.assert_array_equal(integrate_closing(np.zeros(3)), [1, 1, 1])


def test_bridge_pose_is_extrinsic_xyz_euler_and_its_target_the_next_state():
    dataset = find_dataset("bridge_dataset")
    episode = bridge_episode(0, 6, (8, 8))
    given = dataset.standardize(raw(dataset.spec, episode))
    roll, pitch, yaw = np.asarray(episode["steps/observation/state"])[2, 3:6]
    about = {
        axis: Rotation.from_rotvec(angle * np.eye(3)[i])
        for i, (axis, angle) in enumerate(zip("xyz", (roll, pitch, yaw)))
    }
    expected = (about["z"] * about["y"] * about["x"]).as_matrix()
    np.testing.assert_allclose(Rotation.from_quat(given["pose"][2, 3:]).as_matrix(), expected, atol=1e-6)
    intrinsic = (about["x"] * about["y"] * about["z"]).as_matrix()
    assert not np.allclose(expected, intrinsic, atol=1e-3)
    np.testing.assert_array_equal(given["target_pose"][:-1], given["pose"][1:])
    assert given["target_valid"].tolist() == [True] * 5 + [False]
    assert set(np.unique(given["gripper"])) <= set(np.clip(raw(dataset.spec, episode)["observation/state"][:, 6], 0, 1))


def test_fractal_pose_is_the_tool_pose_and_openness_is_inverted():
    dataset = find_dataset("fractal20220817_data")
    given_raw = raw(dataset.spec, fractal_episode(0, 6, (8, 8)))
    given = dataset.standardize(given_raw)
    np.testing.assert_allclose(given["pose"], given_raw["observation/base_pose_tool_reached"], atol=1e-6)
    np.testing.assert_allclose(given["gripper"], 1 - given_raw["observation/gripper_closed"][:, 0], atol=1e-6)
    assert set(given["target_gripper"]) <= {0.0, 1.0}


def test_feature_trees_of_the_generated_datasets_are_the_real_ones(shared_data):
    real = json.loads((shared_data.parent / "design" / "oxe_features.json").read_text())
    for name, tree in (("bridge_data_v2", BRIDGE), ("fractal20220817_data", FRACTAL)):
        features = {key: f for key, f in real[name]["features"].items() if f["kind"] != "Image"}
        assert features.keys() == tree.keys()
        for key, feature in features.items():
            text = feature["kind"] == "Text" or feature["dtype"] == "string"
            assert (tree[key].kind == "text") == text, key
            if not text:
                assert (list(tree[key].shape), tree[key].dtype) == (feature["shape"], feature["dtype"]), key


def test_source_digest_follows_the_helpers(tmp_path, monkeypatch):
    """OpenVLA hashes the function alone, Octo its name: an edited helper would keep stale statistics."""
    from data_pipelines import conventions

    helper, dataset = tmp_path / "sign_of_z.py", tmp_path / "toy_data.py"
    helper.write_text("SIGN = 1\n")
    dataset.write_text("from data_pipelines.conventions.sign_of_z import SIGN\n")
    monkeypatch.setattr(conventions, "__path__", [*conventions.__path__, str(tmp_path)])
    monkeypatch.setattr(datasets, "__path__", [*datasets.__path__, str(tmp_path)])
    before = source_digest("data_pipelines.datasets.toy_data")
    assert source_digest("data_pipelines.datasets.toy_data") == before
    helper.write_text("SIGN = -1\n")
    assert source_digest("data_pipelines.datasets.toy_data") != before
