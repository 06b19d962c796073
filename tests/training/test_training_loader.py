"""The loader: global arrays in order, errors where they belong, no thread left."""

import itertools
import threading
import time

import jax
import numpy as np
import pytest

from tests.toy import ToyPipeline
from vla_jax.sharding import MeshConfig
from vla_jax.training.loader import Loader


@pytest.fixture
def mesh():
    return MeshConfig(data=2, fsdp=2, tensor=2).build(jax.devices()[:8])


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "loader"]


def test_batches_come_in_order_and_sharded_over_data_and_fsdp(mesh):
    pipeline = ToyPipeline(0, 8)
    loader = Loader(pipeline.batches(3, slice(None)), mesh, batch_size=8)
    for step in (3, 4, 5):
        batch = next(loader)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(batch), pipeline.batch(step))
        assert {leaf.addressable_shards[0].data.shape[0] for leaf in jax.tree.leaves(batch)} == {2}
    loader.close()
    assert threads() == []


def test_close_returns_while_the_queue_is_full_and_closes_the_source(mesh):
    closed = []

    class Source:
        steps = ToyPipeline(0, 8).batches(0, slice(None))

        def __iter__(self):
            return self.steps

        def close(self):
            closed.append(True)

    loader = Loader(Source(), mesh, batch_size=8)
    next(loader)
    loader.close()
    loader.close()
    assert threads() == []
    assert closed


def test_an_error_comes_after_the_batches_before_it(mesh):
    def source():
        yield ToyPipeline(0, 8).batch(0)
        raise OSError("the disk went away")

    loader = Loader(source(), mesh, batch_size=8)
    next(loader)
    for _ in range(2):
        with pytest.raises(OSError, match="the disk went away"):
            next(loader)
    loader.close()


def test_a_finite_source_ends(mesh):
    loader = Loader(itertools.islice(ToyPipeline(0, 8).batches(0, slice(None)), 2), mesh, batch_size=8)
    assert len(list(loader)) == 2
    loader.close()


def test_a_slow_source_works_ahead_while_nobody_waits(mesh):
    def slow():
        for batch in ToyPipeline(0, 8).batches(0, slice(None)):
            time.sleep(0.1)
            yield batch

    loader = Loader(slow(), mesh, batch_size=8)
    assert seconds_for(loader) + seconds_for(loader) > 0.1
    time.sleep(0.5)
    assert seconds_for(loader) < 0.05
    loader.close()


def seconds_for(loader) -> float:
    started = time.perf_counter()
    next(loader)
    return time.perf_counter() - started
