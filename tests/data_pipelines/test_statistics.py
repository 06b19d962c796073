"""Statistics against numpy's, merged against whole, and what their key follows."""

import dataclasses
import json

import jsonschema
import numpy as np
import pytest
from pipeline_setup import BOTH, open_generated, requirements

from data_pipelines import pipeline as pipeline_module
from data_pipelines.action_spaces import relative_pose
from data_pipelines.statistics import RELATIVE_ERROR, Summary
from data_pipelines.transforms import decode
from tests.rlds_episodes import write_bridge
from vla_jax.schemas import schema


def rows(seed=0, number=4000):
    generator = np.random.default_rng(seed)
    scales = np.array([1e-4, 0.03, 1.0, 250.0])
    return generator.normal(size=(number, 4)) * scales + np.array([0, 0.01, 5, -1000])


def summary(*parts):
    total = Summary(4)
    for part in parts:
        total.add(part)
    return total


def test_moments_and_quantiles_equal_numpys():
    x = rows()
    tree = summary(x).tree(relative_pose.action_space(1).dimensions[:4])
    np.testing.assert_allclose(tree["mean"], x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(tree["std"], x.std(0), rtol=1e-12)
    np.testing.assert_array_equal([tree["min"], tree["max"]], [x.min(0), x.max(0)])
    for key, q in (("q01", 0.01), ("q99", 0.99)):
        exact = np.quantile(x, q, axis=0, method="lower")
        assert np.all(np.abs(np.array(tree[key]) - exact) <= RELATIVE_ERROR * 1.001 * np.abs(exact) + 1e-9)


@pytest.mark.parametrize("cuts", [(1,), (7, 8, 3999), (1000, 2000, 3000)])
def test_merged_parts_equal_the_whole_in_any_order(cuts):
    x = rows()
    whole, merged = summary(x), Summary(4)
    for part in reversed(np.split(x, cuts)):
        merged.merge(summary(part))
    assert merged.count == whole.count
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(merged.squares, whole.squares, rtol=1e-10)
    np.testing.assert_array_equal(merged.bins, whole.bins)
    np.testing.assert_array_equal(merged.quantile(0.37), whole.quantile(0.37))


def test_averaged_quantiles_of_parts_would_be_wrong():
    """The shortcut of other loaders: a weighted mean of per-part quantiles."""
    small, large = rows(0, 3000), rows(1, 3000) * 10
    exact = np.quantile(np.concatenate([small, large]), 0.99, axis=0, method="lower")
    averaged = (np.quantile(small, 0.99, axis=0) + np.quantile(large, 0.99, axis=0)) / 2
    ours = summary(small, large).quantile(0.99)
    assert np.allclose(ours, exact, rtol=2 * RELATIVE_ERROR)
    assert not np.allclose(averaged, exact, rtol=0.1)


def test_constant_and_extreme_values_stay_inside_the_extremes():
    x = np.array([[0.0, 1.0, 1e-12, 1e12]] * 5)
    total = summary(x)
    np.testing.assert_array_equal(total.quantile(0.5), x[0])


def test_pipeline_statistics_pool_the_valid_entries_of_every_chunk(two_datasets):
    pipeline = open_generated(two_datasets, mixture=BOTH, needs=requirements(horizon=3))
    jsonschema.validate(pipeline.statistics, schema("dataset_statistics"))
    for source in pipeline.sources:
        proprio, action, mask = source.numbers(np.arange(source.index.num_steps))
        found = pipeline.statistics[source.name]
        np.testing.assert_allclose(found["action"]["mean"], action[mask].astype(np.float64).mean(0), atol=1e-9)
        np.testing.assert_allclose(found["action"]["std"], action[mask].astype(np.float64).std(0), atol=1e-9)
        np.testing.assert_allclose(found["proprio"]["mean"], proprio.astype(np.float64).mean(0), atol=1e-9)
        assert found["num_transitions"] == source.index.num_steps
        assert mask.sum() < mask.size


def test_no_picture_is_decoded_for_statistics(tmp_path, monkeypatch):
    write_bridge(tmp_path)
    monkeypatch.setattr(decode.Decode, "__call__", lambda *_: pytest.fail("a picture was decoded"))
    monkeypatch.setattr(pipeline_module.Source, "read_images", lambda *_: pytest.fail("a picture was read"))
    assert open_generated(tmp_path).statistics["bridge_dataset"]["num_transitions"] == 21


def key_of(root, needs=None):
    return open_generated(root, needs=needs or requirements()).statistics["bridge_dataset"]["key"]


def test_key_follows_data_horizon_and_layout_but_not_the_policys_cameras(tmp_path):
    write_bridge(tmp_path / "a")
    key = key_of(tmp_path / "a")
    assert key_of(tmp_path / "a", requirements(window=1, size=(8, 8))) == key
    assert key_of(tmp_path / "a", requirements(horizon=3)) != key
    write_bridge(tmp_path / "moved")
    assert key_of(tmp_path / "moved") == key
    write_bridge(tmp_path / "other", lengths=(10, 7, 5))
    assert key_of(tmp_path / "other") != key


def test_key_follows_the_source_of_the_standardisation(tmp_path, monkeypatch):
    write_bridge(tmp_path)
    key = key_of(tmp_path)
    from data_pipelines import source

    find = source.find_dataset
    edited = lambda name: dataclasses.replace(find(name), source_digest="another")  # noqa: E731
    monkeypatch.setattr(source, "find_dataset", edited)
    assert key_of(tmp_path) != key


def test_damaged_cached_statistics_are_computed_again(tmp_path):
    write_bridge(tmp_path)
    expected = open_generated(tmp_path).statistics
    (path,) = (tmp_path / "cache").rglob("statistics-*.json")
    path.write_text(path.read_text()[:100])
    assert open_generated(tmp_path).statistics == expected
    assert json.loads(path.read_text()) == expected["bridge_dataset"]
