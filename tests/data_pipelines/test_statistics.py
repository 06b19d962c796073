"""Statistics against numpy's, merged against whole, per dataset and per robot, and what their key follows."""

import dataclasses
import functools
import json
import tracemalloc

import jsonschema
import numpy as np
import pytest
from pipeline_setup import BOTH, open_generated, requirements

from data_pipelines import pipeline as pipeline_module
from data_pipelines import sketch as sketch_module
from data_pipelines import source as source_module
from data_pipelines.__main__ import main
from data_pipelines.action_spaces import relative_pose
from data_pipelines.sketch import ALL_BINS, NUM_BINS, RELATIVE_ERROR, Sketch
from data_pipelines.transforms import decode
from tests.rlds_episodes import write_bridge
from vla_jax.schemas import schema
from vla_jax.types import Dimension

JOINTS = """
import types
from data_pipelines.action_spaces import joint_position

def get_config():
    return types.SimpleNamespace(action_space=joint_position.action_space(1))
"""


def rows(seed=0, number=4000):
    generator = np.random.default_rng(seed)
    scales = np.array([1e-4, 0.03, 1.0, 250.0])
    return generator.normal(size=(number, 4)) * scales + np.array([0, 0.01, 5, -1000])


def sketch(*parts):
    total = Sketch(parts[0].shape[1])
    for part in parts:
        total.add(part)
    return total


def test_moments_and_quantiles_equal_numpys():
    x = rows()
    tree = sketch(x).tree(relative_pose.action_space(1).dimensions[:4])
    np.testing.assert_allclose(tree["mean"], x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(tree["std"], x.std(0), rtol=1e-12)
    np.testing.assert_array_equal([tree["min"], tree["max"]], [x.min(0), x.max(0)])
    for key, q in (("q01", 0.01), ("q99", 0.99)):
        exact = np.quantile(x, q, axis=0, method="lower")
        assert np.all(np.abs(np.array(tree[key]) - exact) <= RELATIVE_ERROR * 1.001 * np.abs(exact) + 1e-9)


@pytest.mark.parametrize("cuts", [(1,), (7, 8, 3999), (1000, 2000, 3000)])
def test_merged_parts_equal_the_whole_in_any_order(cuts):
    x = rows()
    whole, merged = sketch(x), Sketch(4)
    for part in reversed(np.split(x, cuts)):
        merged.merge(sketch(part))
    assert merged.count == whole.count
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(merged.squares, whole.squares, rtol=1e-10)
    for ours, theirs in zip(merged.histogram(), whole.histogram()):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(merged.quantile(0.37), whole.quantile(0.37))


def skewed(kind, number=3000):
    generator = np.random.default_rng(2)
    draws = {
        "long tails": generator.standard_cauchy((number, 3)) ** 3,
        "many decades": np.exp(generator.uniform(-20, 20, (number, 3))) * generator.choice([-1, 1], (number, 3)),
        "few values": generator.choice([-1.0, 0.0, 0.3, 1.0], (number, 3)),
        "mostly zero": generator.normal(size=(number, 3)) * (generator.uniform(size=(number, 3)) > 0.97),
    }
    return np.clip(draws[kind], -1e9, 1e9)


@pytest.mark.parametrize("kind", ["long tails", "many decades", "few values", "mostly zero"])
def test_every_quantile_is_within_the_stated_error_of_the_sample_at_its_rank_also_after_merging(kind):
    x = skewed(kind)
    merged = Sketch(3)
    for part in np.split(x, [1, 20, 1500]):
        merged.merge(sketch(part))
    ranks = np.array([0, 1, 15, 300, 1499, 1500, 2700, 2985, 2998, 2999])
    found = np.stack([merged.quantile(rank / 2999 + 1e-9) for rank in ranks])
    exact = np.sort(x, axis=0)[ranks]
    assert np.all(np.abs(found - exact) <= RELATIVE_ERROR * np.abs(exact) * (1 + 1e-9) + 1e-9)


@pytest.mark.parametrize("pending", [1, 1 << 30])
def test_a_sketch_read_back_goes_on_where_it_was_written_and_when_bins_are_counted_makes_no_difference(
    monkeypatch, pending
):
    monkeypatch.setattr(sketch_module, "MOST_PENDING", pending)
    first, second = np.split(rows(), [2500])
    total = Sketch.load(sketch(first).arrays("x_"), "x_")
    total.add(second)
    for name, array in sketch(first, second).arrays("").items():
        np.testing.assert_array_equal(total.arrays("")[name], array)


def test_dimensions_that_a_robot_lacks_count_as_zeros_and_take_no_room():
    """A padded vector of 64 numbers, of which 4 are there; bins of all would take 400 MB."""
    x = rows()
    padded = np.zeros((len(x), 64), np.float32)
    padded[:, 10:50:10] = x
    tracemalloc.start()
    total = Sketch(64)
    for part in np.split(padded, 8):
        total.merge(sketch(part))
    tree = total.tree(tuple(Dimension(name=str(number), unit="1") for number in range(64)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6
    alone = sketch(padded[:, 10:50:10])
    np.testing.assert_array_equal(total.quantile(0.4)[10:50:10], alone.quantile(0.4))
    lacking = np.setdiff1d(np.arange(64), np.arange(10, 50, 10))
    for key in ("mean", "std", "min", "max", "q01", "q99"):
        assert not np.any(np.array(tree[key])[lacking])
    bins, counts = total.histogram()
    np.testing.assert_array_equal(counts[np.isin(bins, lacking * ALL_BINS + NUM_BINS)], len(x))


def test_averaged_quantiles_of_parts_would_be_wrong():
    """The shortcut of other loaders: a weighted mean of per-part quantiles."""
    small, large = rows(0, 3000), rows(1, 3000) * 10
    exact = np.quantile(np.concatenate([small, large]), 0.99, axis=0, method="lower")
    averaged = (np.quantile(small, 0.99, axis=0) + np.quantile(large, 0.99, axis=0)) / 2
    ours = sketch(small, large).quantile(0.99)
    assert np.allclose(ours, exact, rtol=2 * RELATIVE_ERROR)
    assert not np.allclose(averaged, exact, rtol=0.1)


def test_constant_and_extreme_values_stay_inside_the_extremes():
    x = np.array([[0.0, 1.0, 1e-12, 1e12]] * 5)
    total = sketch(x)
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


def with_changed(monkeypatch, **changes):
    """Datasets as they would be found with these fields of their SPEC, or `sources`, changed."""
    find = source_module.find_dataset

    def changed(name, *arguments):
        dataset = find(name, *arguments)
        spec = dataclasses.replace(dataset.spec, **{key: new for key, new in changes.items() if key != "sources"})
        return dataclasses.replace(dataset, spec=spec, sources=dataset.sources | changes.get("sources", {}))

    monkeypatch.setattr(source_module, "find_dataset", changed)


def test_key_follows_the_source_of_the_standardisation_and_made_from_names_the_file(tmp_path, monkeypatch):
    write_bridge(tmp_path)
    before = open_generated(tmp_path).statistics["bridge_dataset"]
    with_changed(monkeypatch, sources={"data_pipelines/conventions/gripper.py": "another"})
    after = open_generated(tmp_path).statistics["bridge_dataset"]
    assert after["key"] != before["key"]
    changed = [part for part in before["made_from"] if after["made_from"][part] != before["made_from"][part]]
    assert changed == ["data_pipelines/conventions/gripper.py"]
    assert {"version", "shards", "data_pipelines/datasets/bridge_dataset.py"} <= before["made_from"].keys()


def test_key_does_not_follow_what_cannot_change_a_number(tmp_path, monkeypatch):
    write_bridge(tmp_path)
    before = open_generated(tmp_path).statistics["bridge_dataset"]
    with_changed(monkeypatch, languages=(), rate_hertz=7.0)
    assert open_generated(tmp_path).statistics["bridge_dataset"] == before
    assert not [part for part in before["made_from"] if "sidecar" in part or "cache" in part]


def test_datasets_of_one_robot_share_statistics_of_all_their_steps_where_a_recipe_asks(two_datasets, monkeypatch):
    open_both = functools.partial(open_generated, two_datasets, mixture=BOTH, needs=requirements(horizon=3))
    apart = open_both().statistics
    assert open_both(statistics_per="embodiment").statistics == apart
    with_changed(monkeypatch, robot="one robot")
    pipeline = open_both(statistics_per="embodiment")
    bridge, fractal = (pipeline.statistics[name] for name in BOTH)
    assert bridge == fractal
    jsonschema.validate(pipeline.statistics, schema("dataset_statistics"))
    numbers = [source.numbers(np.arange(source.index.num_steps)) for source in pipeline.sources]
    targets = np.concatenate([action[mask] for _, action, mask in numbers]).astype(np.float64)
    states = np.concatenate([proprio for proprio, _, _ in numbers]).astype(np.float64)
    for found, x in ((bridge["action"], targets), (bridge["proprio"], states)):
        np.testing.assert_allclose(found["mean"], x.mean(0), atol=1e-9)
        np.testing.assert_allclose(found["std"], x.std(0), atol=1e-9)
        exact = np.quantile(x, 0.99, axis=0, method="lower")
        np.testing.assert_allclose(found["q99"], exact, rtol=1.001 * RELATIVE_ERROR, atol=1e-9)
    assert bridge["num_transitions"] == sum(tree["num_transitions"] for tree in apart.values()) == 36
    assert bridge["key"] not in [tree["key"] for tree in apart.values()]
    swapped = dict(reversed(BOTH.items()))
    assert open_both(mixture=swapped, statistics_per="embodiment").statistics == pipeline.statistics


def test_an_action_space_that_a_dataset_lacks_columns_for_is_refused(tmp_path, capsys):
    folder = write_bridge(tmp_path)
    (tmp_path / "recipe.py").write_text(JOINTS)
    arguments = ["stats", str(folder), "--cache", str(tmp_path / "cache"), "--config", str(tmp_path / "recipe.py")]
    assert main(arguments) == 2
    assert "cannot be mapped into the action space 'joint_position', which needs ['joints'" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_damaged_cached_statistics_are_computed_again(tmp_path, damage, caplog):
    write_bridge(tmp_path)
    expected = open_generated(tmp_path).statistics
    (path,) = (tmp_path / "cache").rglob("statistics-*.npz")
    whole = path.read_bytes()
    middle = len(whole) // 2
    damaged = {"cut": whole[:100], "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]}
    path.write_bytes(damaged.get(damage, b""))
    assert open_generated(tmp_path).statistics == expected
    assert path.read_bytes() == whole
    assert "damaged, computed again" in caplog.text
    assert json.loads(path.with_suffix(".json").read_text()) == expected["bridge_dataset"]
