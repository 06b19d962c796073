"""Access mode `episode`: pools of episodes, each read whole and once a visit; the order a function of (seed, step)."""

import collections
import dataclasses
import json
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import Future

import numpy as np
import pytest
from pipeline_setup import BOTH, open_generated, requirements
from test_pipeline import ids_of, read, rows_of, same

from data_pipelines import reading
from data_pipelines.config import CropConfig
from data_pipelines.pools import EpisodeOrder, Visit
from tests.conftest import ROOT, one_device
from tests.rlds_episodes import write_bridge
from vla_jax.types import InputError

ORDER = [0, 2, 1, 8, 9, 5, 12, 4, 10, 7, 3, 11, 6, 8, 1, 2]
CAMERAS = ("primary", "secondary")


def episode_order(**changes):
    arguments = {
        "seed": 7,
        "first_window": np.array([0, 3, 3, 8, 9, 13]),
        "num_bytes": np.array([100, 10, 100, 300, 100]),
        "max_episodes": 2,
        "max_bytes": 250,
    }
    return EpisodeOrder(**(arguments | changes))


def open_pooled(root, **arguments):
    defaults = {"mixture": BOTH, "needs": requirements(cameras=CAMERAS), "crop": CropConfig(), "batch_size": 8}
    return open_generated(root, **(defaults | {"access": "episode", "pool_episodes": 2} | arguments))


def test_the_order_is_the_one_that_earlier_runs_had():
    order = episode_order()
    assert [order.drawn(0, place).window for place in range(16)] == ORDER


def test_every_window_comes_once_an_epoch_and_groups_hold_what_they_may():
    order = episode_order()
    for epoch in range(4):
        drawn = [order.drawn(0, 13 * epoch + place) for place in range(13)]
        assert sorted(d.window for d in drawn) == list(range(13))
        assert {d.visit.epoch for d in drawn} == {epoch}
        groups = [d.visit.group for d in drawn]
        assert groups == sorted(groups)
        for group in set(groups):
            episodes = order.episodes(Visit(epoch, group))
            assert len(episodes) <= 2
            assert order.num_bytes[episodes].sum() <= 250 or episodes.tolist() == [3]  # larger than the limit, alone
    assert len({tuple(order.drawn(0, 13 * epoch + place).window for place in range(13)) for epoch in range(4)}) == 4


def test_windows_of_a_group_are_mixed_and_groups_follow_one_another():
    order = episode_order(first_window=np.arange(0, 401, 20), num_bytes=np.ones(20, int), max_episodes=5)
    episodes = [order.drawn(0, place).window // 20 for place in range(400)]
    for start in range(0, 400, 100):
        assert len(set(episodes[start : start + 100])) == 5
        assert len(set(episodes[start : start + 20])) >= 4
    visit = order.drawn(0, 0).visit
    for place in range(0, 800, 100):
        assert order.drawn(0, place).visit == visit
        visit = order.after(visit)


def test_resuming_at_any_step_gives_the_same_batches(two_datasets):
    whole = read(open_pooled(two_datasets), 0, 9)
    for start in (1, 4, 8):
        again = open_pooled(two_datasets, num_threads=1, prefetch=1)
        assert all(same(a, b) for a, b in zip(read(again, start, 9 - start), whole[start:], strict=True))
    assert same(open_pooled(two_datasets).batch(7), whole[7])
    assert not np.array_equal(whole[0].sample_ids, open_pooled(two_datasets, seed=6).batch(0).sample_ids)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_read_the_rows_of_the_same_global_batches(two_datasets, hosts):
    whole, share = read(open_pooled(two_datasets), 3, 3), 8 // hosts
    for host in range(hosts):
        rows = slice(host * share, (host + 1) * share)
        for part, batch in zip(read(open_pooled(two_datasets), 3, 3, rows), whole, strict=True):
            assert same(part, rows_of(batch, rows))


def test_the_same_window_is_the_same_sample_in_both_modes(two_datasets):
    """Numbers, texts and pictures, crops apart, which belong to the place in the run."""
    pooled = open_pooled(two_datasets, crop=None).batch(3)
    frames = open_pooled(two_datasets, crop=None, access="frame", batch_size=400).batch(0)
    place = {tuple(ids): row for row, ids in enumerate(frames.sample_ids.tolist())}
    rows = np.array([place[tuple(ids)] for ids in pooled.sample_ids.tolist()])
    frames = rows_of(frames, rows)
    assert same(pooled, dataclasses.replace(frames, sample_index=pooled.sample_index))


def test_the_mixture_is_the_one_of_frame_access(two_datasets):
    mixture = dict(zip(BOTH, (3.0, 1.0)))
    frames, pooled = (open_pooled(two_datasets, access=access, mixture=mixture) for access in ("frame", "episode"))
    np.testing.assert_array_equal(ids_of(frames, 20)[:, 0], ids_of(pooled, 20)[:, 0])
    for step, batch in enumerate(read(pooled, 0, 4)):
        np.testing.assert_array_equal(pooled.sample_ids(step), batch.sample_ids)


def test_an_episode_is_read_whole_and_once_a_visit(tmp_path, monkeypatch):
    write_bridge(tmp_path, lengths=(5, 9, 3, 7, 6, 8, 4, 6), shards=3)
    small = {"batch_size": 4, "num_threads": 1, "pool_bytes": 150_000}
    pipeline = open_pooled(tmp_path, mixture={"bridge_dataset": 1.0}, **small)
    reads = collections.Counter()
    read_range = reading.read_range

    def counted(path, offset, length, digest):
        reads[(path.name, offset, length)] += 1
        return read_range(path, offset, length, digest)

    monkeypatch.setattr(reading, "read_range", counted)
    windows = len(pipeline.sources[0].anchors)
    read(pipeline, 0, 3 * windows // 4)
    index = pipeline.sources[0].index
    records = {(index.shards[s].name, int(o), int(n)) for s, o, n, _, _ in index.episodes}
    assert set(reads) == records
    assert max(reads.values()) <= 4, reads  # three epochs, and what is fetched ahead
    assert sum(reads.values()) > 16, reads  # and not simply held


def test_the_next_group_is_fetched_before_it_is_drawn_from(tmp_path):
    write_bridge(tmp_path, lengths=(6,) * 8)
    pipeline = open_pooled(tmp_path, mixture={"bridge_dataset": 1.0}, batch_size=1)
    reader = pipeline.sources[0].reader
    pipeline.batch(0)
    (group, after) = list(reader._held[0])
    assert (group, after) == (Visit(0, 0), Visit(0, 1))
    for record in reader._held[0][after].values():
        assert len(record.result(timeout=10)) > 0
    reader.close()


def test_what_is_held_stays_within_the_limit(tmp_path):
    write_bridge(tmp_path, lengths=(6,) * 40, shards=2)
    pipeline = open_pooled(tmp_path, mixture={"bridge_dataset": 1.0}, pool_episodes=100, pool_bytes=400_000)
    reader, largest, groups = pipeline.sources[0].reader, 0, 0
    record = int(pipeline.sources[0].index.episodes[:, 2].max())
    for step in range(60):
        pipeline.batch(step)
        held = {id(f): f for group in list(reader._held[0].values()) for f in group.values()}
        largest = max(largest, sum(len(future.result()) for future in held.values()))
        groups = max(groups, len(reader._held[0]))
    reader.close()
    assert 400_000 - 3 * record < largest <= 400_000
    assert groups >= 3


class ReadAtOnce:
    """In place of threads, with the most bytes that were held at any time."""

    alive: weakref.WeakSet
    most_bytes = 0

    def __init__(self, *_):
        pass

    def submit(self, work, *arguments):
        future = Future()
        future.set_result(work(*arguments))
        self.alive.add(future)
        ReadAtOnce.most_bytes = max(self.most_bytes, sum(len(held.result()) for held in self.alive))
        return future

    def shutdown(self, **_):
        pass


def test_the_oldest_group_is_forgotten_before_the_next_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(ReadAtOnce, "alive", weakref.WeakSet(), raising=False)
    monkeypatch.setattr(ReadAtOnce, "most_bytes", 0)
    monkeypatch.setattr(reading, "ThreadPoolExecutor", ReadAtOnce)
    write_bridge(tmp_path, lengths=(6,) * 40, shards=2)
    pipeline = open_pooled(tmp_path, mixture={"bridge_dataset": 1.0}, pool_episodes=100, pool_bytes=400_000)
    for step in range(60):
        pipeline.batch(step)
    assert 300_000 < ReadAtOnce.most_bytes <= 400_000


def test_all_groups_of_a_batch_are_held_until_it_is_read(tmp_path, monkeypatch):
    """Of one episode each, 24 of them, in a pool that has room for none."""
    write_bridge(tmp_path, lengths=(5,) * 24)
    reads = []
    read_range = reading.read_range
    monkeypatch.setattr(reading, "read_range", lambda *arguments: reads.append(arguments[:3]) or read_range(*arguments))
    pipeline = open_pooled(tmp_path, mixture={"bridge_dataset": 1.0}, pool_bytes=1, batch_size=64, num_threads=1)
    pipeline.batch(0)
    index = pipeline.sources[0].index
    held = pipeline.sources[0].reader._held[0]
    assert len(held) > reading.MOST_GROUPS
    records = [(index.shards[s], int(offset), int(length)) for s, offset, length, _, _ in index.episodes]
    assert len(reads) == len(set(reads)) == len(held)
    assert set(reads) <= set(records)


def test_a_pool_that_holds_hardly_an_episode_is_named(two_datasets, caplog):
    open_pooled(two_datasets, pool_bytes=1000)
    assert "raise it" in caplog.text
    assert "dataset bridge_dataset: its largest episode has" in caplog.text


def test_bad_pictures_are_replaced_the_same_way_after_a_resume(tmp_path):
    def cut(number, episode):
        if number == 1:
            picture = episode["steps/observation/image_0"]
            picture[3] = picture[3][:60]

    write_bridge(tmp_path, edit=cut)
    arguments = {"mixture": {"bridge_dataset": 1.0}, "max_bad_share": 1.0}
    whole = open_pooled(tmp_path, **arguments)
    batches = read(whole, 0, 8)
    assert whole.num_replaced > 0
    again = read(open_pooled(tmp_path, **arguments), 4, 4)
    assert all(same(a, b) for a, b in zip(again, batches[4:], strict=True))


def test_closing_stops_every_thread_and_batches_may_be_opened_again(two_datasets):
    before = set(threading.enumerate())
    pipeline = open_pooled(two_datasets)
    first = read(pipeline, 0, 2)
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert set(threading.enumerate()) <= before
    assert all(same(a, b) for a, b in zip(read(pipeline, 0, 2), first))


def test_pools_that_make_no_sense_are_refused(two_datasets):
    for wrong in ({"pool_episodes": 0}, {"pool_bytes": 0}):
        with pytest.raises(InputError, match="at least 1 expected"):
            open_pooled(two_datasets, **wrong)


HOST = """
import hashlib, json, sys
import jax
sys.path.insert(0, "tests/data_pipelines")
from pathlib import Path
from test_access_modes import open_pooled
from test_pipeline import read

root, cache, host, hosts, start, number = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
share, lines = 8 // hosts, {}
for access in ("frame", "episode"):
    rows = slice(host * share, (host + 1) * share)
    batches = read(open_pooled(Path(root), access=access, cache=cache), start, number, rows)
    lines[access] = [
        [hashlib.sha256(b"".join(x[r].tobytes() for x in jax.tree.leaves(batch))).hexdigest() for r in range(share)]
        for batch in batches
    ]
print(json.dumps(lines))
"""


def rows_by_hosts(root, hosts, start, number):
    """Digests of the rows of global batches, put together from so many processes: {mode: [step][row]}."""
    processes = []
    for host in range(hosts):
        numbers = [str(n) for n in (host, hosts, start, number)]
        command = [sys.executable, "-c", HOST, str(root), str(root / "cache"), *numbers]
        processes.append(subprocess.Popen(command, cwd=ROOT, env=one_device(), stdout=subprocess.PIPE))
    parts = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    return {mode: [[row for p in parts for row in p[mode][step]] for step in range(number)] for mode in parts[0]}


def test_a_change_of_host_count_keeps_the_global_batches_of_both_modes(two_datasets):
    """One process, then two, then four, really started: together the batches of one that never stopped."""
    for mode in ("frame", "episode"):  # what they share is built before they race for it
        open_pooled(two_datasets, access=mode)
    whole = rows_by_hosts(two_datasets, 1, 0, 6)
    for hosts, start in ((2, 2), (4, 4)):
        parts = rows_by_hosts(two_datasets, hosts, start, 2)
        for mode, steps in whole.items():
            assert parts[mode] == steps[start : start + 2]
    assert whole["frame"] != whole["episode"]
