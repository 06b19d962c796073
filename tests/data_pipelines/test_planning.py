"""Batches are planned as a whole: the samples are those that planning one after another gives."""

import grain
import numpy as np
import pytest
from pipeline_setup import BOTH, open_generated
from test_pipeline import read, same

from data_pipelines.mixture import Mixture, Planned, order_seed

SAMPLES = np.arange(1000)


@pytest.mark.parametrize("first", [0, 123_456])
def test_the_order_is_that_of_grains_mixture_one_sample_after_another(first):
    sizes = tuple(range(5000, 5025))
    weights = tuple(np.random.default_rng(0).uniform(0.01, 1, 25).tolist())
    parts = [
        grain.MapDataset.range(size).shuffle(seed=order_seed(3, n)).repeat().map(lambda w, n=n: Planned(n, w))
        for n, size in enumerate(sizes)
    ]
    one_by_one = grain.MapDataset.mix(parts, weights=weights)
    planned = Mixture(seed=3, sizes=sizes, weights=weights).planned(first + SAMPLES)
    assert planned == [one_by_one[first + n] for n in range(1000)]


def test_turns_that_leave_64_bits_are_exact():
    mixture = Mixture(seed=3, sizes=(5, 5), weights=(1e-13, 1.0))
    dataset, place = mixture._taken(np.array([10**6]))
    assert (dataset[0], place[0]) == (1, 10**6 - 1)


@pytest.mark.parametrize(("access", "lanes"), [("frame", 1), ("episode", 1), ("episode", 4)])
def test_a_batch_is_planned_as_its_samples_one_by_one(two_datasets, access, lanes):
    pipeline = open_generated(two_datasets, mixture=BOTH, access=access, lanes=lanes)
    mixture = pipeline.mixture
    plans = mixture.planned(SAMPLES)
    assert plans == [mixture.planned(SAMPLES[n : n + 1])[0] for n in range(1000)]
    for sample, plan in zip(pipeline._windows(SAMPLES, plans), plans, strict=True):
        source = pipeline.sources[plan.dataset]
        row = source.anchors[plan.window : plan.window + 1]
        rows, mask = source.window(row, *source.trajectories.bounds(row))
        assert (sample.dataset, sample.row, sample.attempt) == (plan.dataset, row[0], 0)
        np.testing.assert_array_equal(sample.rows, rows[0])
        np.testing.assert_array_equal(sample.mask, mask[0])
    assert [sample.index for sample in pipeline._windows(SAMPLES, plans)] == SAMPLES.tolist()


def test_rows_of_any_stride_are_those_of_the_batch(two_datasets):
    arguments = {"mixture": BOTH, "access": "episode", "lanes": 2, "batch_size": 8}
    (whole,) = read(open_generated(two_datasets, **arguments), 3, 1)
    (odd,) = read(open_generated(two_datasets, **arguments), 3, 1, slice(1, 8, 2))
    assert same(odd.sample_ids, whole.sample_ids[1::2])
