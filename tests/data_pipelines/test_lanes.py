"""Lanes of access mode `episode`: a host reads the episodes of its rows alone, of batches that any hosts give."""

import threading

import numpy as np
import pytest
from pipeline_setup import BOTH, open_generated, requirements
from test_pipeline import ids_of, read, rows_of, same

from data_pipelines import pools, reading
from data_pipelines.mixture import Mixture
from data_pipelines.pools import EpisodeOrder
from tests.rlds_episodes import write_bridge
from vla_jax.types import InputError

LENGTHS = tuple(5 + 3 * number % 7 for number in range(64))
EPOCHS = 3


@pytest.fixture(scope="module")
def many_episodes(tmp_path_factory):
    """64 episodes of 5 to 11 steps."""
    root = tmp_path_factory.mktemp("many")
    write_bridge(root, lengths=LENGTHS, size=(8, 8), shards=4)
    return root


@pytest.fixture(autouse=True)
def _short_lanes(monkeypatch):
    monkeypatch.setattr(pools, "FEWEST_WINDOWS", 1)


def open_lanes(root, **arguments):
    return open_generated(
        root, **({"access": "episode", "lanes": 4, "batch_size": 16, "needs": requirements(size=(8, 8))} | arguments)
    )


def host_rows(host, hosts, batch_size=16):
    return slice(host * batch_size // hosts, (host + 1) * batch_size // hosts)


def episode_order(num_lanes, **changes):
    arguments = {"first_window": np.array([0, 3, 3, 8, 9, 13, 40, 41, 60]), "num_bytes": np.full(8, 100)}
    return EpisodeOrder(
        **({"seed": 7, "max_episodes": 2, "max_bytes": 250, "num_lanes": num_lanes} | arguments | changes)
    )


@pytest.mark.parametrize("num_lanes", [1, 4, 7, 60])
def test_the_lanes_of_an_epoch_share_its_windows_evenly(num_lanes):
    """An episode of half of the windows, and one without, among them."""
    order = episode_order(num_lanes)
    sizes = [60 * (lane + 1) // num_lanes - 60 * lane // num_lanes for lane in range(num_lanes)]
    assert max(sizes) - min(sizes) <= 1
    epochs = []
    for epoch in range(3):
        drawn = [order.drawn(n, epoch * size + place) for n, size in enumerate(sizes) for place in range(size)]
        assert sorted(d.window for d in drawn) == list(range(60))
        assert {d.visit.epoch for d in drawn} == {epoch}
        for window, visit in drawn:
            episode = int(np.searchsorted(order.first_window, window, side="right")) - 1
            assert episode in order.episodes(visit)
        epochs.append([d.window for d in drawn])
    assert epochs[0] != epochs[1] != epochs[2]


def test_neighbouring_lanes_have_at_most_one_episode_in_common():
    order = episode_order(4, first_window=np.arange(0, 401, 10), num_bytes=np.ones(40, int), max_episodes=100)
    for epoch in range(3):
        of_lanes = [set(order.episodes(order.drawn(lane, 100 * epoch).visit).tolist()) for lane in range(4)]
        assert sum(map(len, of_lanes)) == len(set.union(*of_lanes)) == 40  # the cuts fall between episodes here


@pytest.mark.parametrize("lanes", [1, 2, 4, 8])
def test_hosts_read_the_rows_of_the_same_global_batches_also_where_they_share_a_lane(two_datasets, lanes):
    arguments = {"mixture": BOTH, "lanes": lanes, "pool_episodes": 8}
    whole = read(open_lanes(two_datasets, **arguments), 0, 7)
    for hosts, start in ((2, 1), (4, 4), (8, 6)):  # each also a resume
        for host in range(hosts):
            rows = host_rows(host, hosts)
            parts = read(open_lanes(two_datasets, **arguments), start, 7 - start, rows)
            assert all(same(part, rows_of(batch, rows)) for part, batch in zip(parts, whole[start:], strict=True))
    again = open_lanes(two_datasets, **arguments)
    for step, batch in enumerate(whole):
        np.testing.assert_array_equal(again.sample_ids(step), batch.sample_ids)


def passes_of_hosts(root, lanes, hosts, monkeypatch):
    """Bytes that each host reads in some epochs, as a share of those of the data in as many."""
    read_range, lock, passes = reading.read_range, threading.Lock(), []
    for host in range(hosts):
        lengths = []

        def counted(path, offset, length, digest):
            with lock:
                lengths.append(length)  # noqa: B023
            return read_range(path, offset, length, digest)

        monkeypatch.setattr(reading, "read_range", counted)
        pipeline = open_lanes(root, lanes=lanes, pool_bytes=80_000)
        source = pipeline.sources[0]
        for step in range(EPOCHS * len(source.anchors) // 16):
            pipeline.batch(step, host_rows(host, hosts))
        for record in list(source.reader._records.values()):
            record.result(timeout=10)
        assert len(lengths) > 2 * EPOCHS
        source.reader.close()
        passes.append(sum(lengths) / int(source.index.episodes[:, 2].sum()) / EPOCHS)
    return passes


@pytest.mark.parametrize("lanes", [4, 8])
def test_four_hosts_together_read_the_data_about_once_an_epoch(many_episodes, lanes, monkeypatch):
    """Beside it: episodes in which lanes are cut, and what is fetched ahead."""
    passes = passes_of_hosts(many_episodes, lanes, 4, monkeypatch)
    assert 0.9 < sum(passes) < 1.25, passes
    assert max(passes) < 0.36, passes


def test_without_lanes_every_host_reads_all_of_the_data(many_episodes, monkeypatch):
    passes = passes_of_hosts(many_episodes, 1, 4, monkeypatch)
    assert min(passes) > 0.8  # some are held from one epoch to the next


def test_a_host_holds_the_part_of_its_lanes(many_episodes):
    for rows, most in ((slice(0, 16), 1_200_000), (slice(0, 4), 300_000)):
        pipeline = open_lanes(many_episodes, pool_bytes=1_200_000)
        reader, largest = pipeline.sources[0].reader, 0
        for step in range(40):
            pipeline.batch(step, rows)
            largest = max(largest, sum(len(record.result(10)) for record in list(reader._records.values())))
        reader.close()
        assert 0.6 * most < largest <= most


def test_lanes_that_share_the_lane_of_a_small_dataset_draw_every_window_once():
    """16 lanes of two rows; the datasets have 4 lanes of 15 windows, and 1."""
    orders = (episode_order(4), episode_order(1, first_window=np.array([0, 7, 10])))
    mixture = Mixture(7, (60, 10), (3.0, 1.0), orders, batch_size=32, lanes=16)
    planned = mixture.planned(np.arange(32 * 100))
    for number, size in enumerate(mixture.sizes):
        counts = np.bincount([plan.window for plan in planned if plan.dataset == number], minlength=size)
        assert counts.sum() == pytest.approx(3200 * (3, 1)[number] / 4, abs=1)
        assert counts.max() - counts.min() <= 2, counts
    lanes = {(n % 32 // 2, plan.visit.lane) for n, plan in enumerate(planned) if plan.dataset == 0}
    assert lanes == {(lane, lane // 4) for lane in range(16)}


def test_a_dataset_has_no_lane_of_few_windows(two_datasets, monkeypatch):
    monkeypatch.setattr(pools, "FEWEST_WINDOWS", 64)
    assert [pools.lanes_of(64 * 31 + 63, wanted) for wanted in (1, 16, 30, 36, 64)] == [1, 16, 30, 18, 16]
    pipeline = open_lanes(two_datasets, mixture=BOTH, lanes=64, batch_size=64)
    assert {order.num_lanes for order in pipeline.mixture.pools} == {1}
    for number, source in enumerate(pipeline.sources):
        ids = ids_of(pipeline, 20)
        _, counts = np.unique(ids[ids[:, 0] == number], axis=0, return_counts=True)
        assert len(counts) == len(source.anchors) < 64
        assert counts.max() - counts.min() <= 2, counts


def test_every_lane_and_every_batch_keep_the_shares_of_the_mixture(two_datasets):
    weights = dict(zip(BOTH, (5.0, 1.0)))
    ids = ids_of(open_lanes(two_datasets, mixture=weights, lanes=8), 60)[:, 0].reshape(60, 8, 2)
    np.testing.assert_allclose(ids.mean(axis=(0, 2)), 1 / 6, atol=1 / 120)
    np.testing.assert_allclose(ids.sum(axis=(1, 2)), 16 / 6, atol=1)


def test_lanes_that_a_batch_cannot_have_are_refused(two_datasets):
    with pytest.raises(InputError, match=r"data\.lanes=6: a batch of 16 rows is no multiple of it"):
        open_lanes(two_datasets, lanes=6)
    with pytest.raises(InputError, match=r"data\.lanes=0: at least 1 expected"):
        open_lanes(two_datasets, lanes=0)
