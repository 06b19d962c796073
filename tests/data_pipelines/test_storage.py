"""Remote stores: a real HTTP server, slow and failing; every fault that passes is outlasted, others are one error."""

import random
import sys
import time
from types import SimpleNamespace

import fsspec
import pytest
from object_store import ObjectStore
from pipeline_setup import BOTH, open_generated, requirements
from test_pipeline import read, same

from data_pipelines import storage
from data_pipelines.index.dataset_directory import read_directory
from data_pipelines.index.sidecar import open_index
from data_pipelines.storage import RemotePath, locate
from tests.rlds_episodes import write_bridge, write_fractal
from vla_jax.types import InputError


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "FIRST_DELAY_SECONDS", 0.002)
    store = ObjectStore(tmp_path / "served")
    yield store
    store.close()


@pytest.fixture
def two_served(store):
    write_bridge(store.root)
    write_fractal(store.root)
    return store


def open_at(address, cache, **arguments):
    needs = requirements(cameras=("primary", "secondary"))
    defaults = {"mixture": BOTH, "needs": needs, "batch_size": 6, "pool_episodes": 2}
    return open_generated(address, cache=cache, **(defaults | arguments))


@pytest.mark.parametrize("access", ["frame", "episode"])
def test_batches_over_http_are_the_local_ones_though_requests_are_slow_and_fail(two_served, tmp_path, access):
    store, draw = two_served, random.Random(0)
    local = open_at(store.root, tmp_path / "local", access=access)
    store.latency_seconds = 0.005
    faults = ["503", "reset", "short"] + [""] * 17
    store.fault = lambda number, request: draw.choice(faults)
    remote = open_at(store.url, tmp_path / "remote", access=access)
    for ours, theirs in zip(read(local, 2, 6), read(remote, 2, 6), strict=True):
        assert same(ours, theirs)
    assert remote.num_replaced == 0
    assert remote.sources[0].index.digest == local.sources[0].index.digest


@pytest.mark.parametrize("access", ["frame", "episode"])
def test_batches_from_memory_are_the_local_ones(tmp_path, access):
    write_bridge(tmp_path / "data")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "data"), f"/{tmp_path.name}", recursive=True)
    arguments = {"mixture": {"bridge_dataset": 1.0}, "access": access}
    local = open_at(tmp_path / "data", tmp_path / "local", **arguments)
    remote = open_at(f"memory://{tmp_path.name}", tmp_path / "remote", **arguments)
    for ours, theirs in zip(read(local, 0, 4), read(remote, 0, 4), strict=True):
        assert same(ours, theirs)


def test_frame_access_asks_once_a_picture_and_all_of_a_batch_at_once(two_served, tmp_path):
    store = two_served
    pipeline = open_at(store.url, tmp_path / "cache", mixture={"bridge_dataset": 1.0}, batch_size=8)
    store.requests.clear()
    store.latency_seconds = 0.03
    started = time.monotonic()
    batch = pipeline.batch(0)
    pictures = 2 * int(batch.observation.timestep_mask.sum())
    assert len(store.reads()) == pictures > 30
    assert time.monotonic() - started < 0.6 * pictures * store.latency_seconds
    assert store.most_at_once <= storage.MAX_REQUESTS
    assert len(store.connections) < pictures + 10  # kept open, not one a request


def test_episode_access_asks_once_an_episode(tmp_path, store):
    write_bridge(store.root, lengths=(12,) * 6)
    arguments = {"mixture": {"bridge_dataset": 1.0}, "access": "episode", "batch_size": 8}
    pipeline = open_at(store.url, tmp_path / "cache", **arguments)
    store.requests.clear()
    read(pipeline, 0, 12)  # of 10 windows an episode: more than an epoch, all of it in the pool
    assert len(store.reads()) == 6
    index = pipeline.sources[0].index
    records = {(int(offset), int(offset + length)) for offset, length in index.episodes[:, 1:3]}
    assert {(request.start, request.end) for request in store.reads()} == records


def test_connections_are_used_again(store):
    store.root.mkdir()
    (store.root / "file").write_bytes(bytes(range(256)) * 40)
    file = locate(store.url) / "file"
    parts = [file.read_range(start, 100) for start in range(0, 5000, 100)]
    assert b"".join(parts) == (store.root / "file").read_bytes()[:5000]
    assert len(store.connections) == 1


def test_a_store_that_stays_away_is_given_up_with_file_range_and_attempts(store, monkeypatch):
    store.root.mkdir()
    (store.root / "file").write_bytes(bytes(1000))
    delays = []
    monkeypatch.setattr(storage.time, "sleep", delays.append)
    store.fault = lambda number, request: "503"
    with pytest.raises(InputError, match=r"/file: bytes 100 to 300: given up after 8 attempts in .*503") as error:
        RemotePath(f"{store.url}/file").read_range(100, 200)
    assert str(error.value).startswith(store.url)
    assert len(store.requests) == 8
    waits = [delay for delay in delays if delay > 0]
    assert all(later > earlier for earlier, later in zip(waits[:-2:2], waits[2::2]))  # doubled, with jitter


def test_a_failing_store_stops_batches_with_its_error(two_served, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "MAX_ATTEMPTS", 3)
    for access in ("frame", "episode"):
        two_served.fault = lambda number, request: ""
        pipeline = open_at(two_served.url, tmp_path / access, access=access)
        two_served.fault = lambda number, request: "reset"
        with pytest.raises(InputError, match=r"tfrecord.*given up after 3 attempts"):
            read(pipeline, 0, 1)


@pytest.mark.parametrize("is_remote", [True, False])
@pytest.mark.parametrize("access", ["frame", "episode"])
def test_a_shard_that_goes_away_stops_batches_with_its_name(two_served, tmp_path, access, is_remote):
    root = two_served.url if is_remote else two_served.root
    pipeline = open_at(root, tmp_path / "cache", access=access, mixture={"bridge_dataset": 1.0})
    for shard in (two_served.root / "bridge_dataset" / "1.0.0").glob("*.tfrecord-*"):
        shard.unlink()
    with pytest.raises(InputError, match=r"bridge_dataset-train.tfrecord-\d+-of-\d+: missing, though .*bring it back"):
        read(pipeline, 0, 1)


class BotoCoreError(Exception):
    __module__ = "botocore.exceptions"


class NoCredentialsError(BotoCoreError):
    __module__ = "botocore.exceptions"


class DefaultCredentialsError(OSError):
    """google.auth's; here of a class that is tried again elsewhere."""


def stand_in(monkeypatch, cat_file) -> None:
    """For s3 alone: readers of earlier tests may still ask their own stores in the background."""
    opened = storage._open_store
    store = SimpleNamespace(cat_file=cat_file)
    monkeypatch.setattr(storage, "_open_store", lambda name: store if name == "s3" else opened(name))


@pytest.mark.parametrize("kind", [NoCredentialsError, DefaultCredentialsError])
@pytest.mark.parametrize("wrapped", [None, OSError, FileNotFoundError])
def test_a_request_without_credentials_is_not_tried_again(monkeypatch, kind, wrapped):
    attempts = []

    def refuse(*_, **__):
        attempts.append(kind)
        if wrapped:
            raise wrapped("no answer") from kind("none found")
        raise kind("none found")

    stand_in(monkeypatch, refuse)
    with pytest.raises(InputError, match=r"^s3://bucket/file: bytes 0 to 8: .*; log in "):
        RemotePath("s3://bucket/file").read_range(0, 8)
    assert len(attempts) == 1


def test_other_faults_of_a_stores_package_are_tried_again(monkeypatch):
    attempts = iter([BotoCoreError("connection closed"), b"12345678"])

    def answer(*_, **__):
        found = next(attempts)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(storage, "FIRST_DELAY_SECONDS", 0.001)
    stand_in(monkeypatch, answer)
    assert RemotePath("s3://bucket/file").read_range(0, 8) == b"12345678"


@pytest.mark.parametrize(
    ("fault", "attempts", "message"), [("ignore range", 1, "ignores ranges"), ("short", 8, "given up after 8 attempts")]
)
def test_wrong_bodies_are_refused(store, fault, attempts, message):
    store.root.mkdir()
    (store.root / "file").write_bytes(bytes(1000))
    store.fault = lambda number, request: fault
    with pytest.raises(InputError, match=message):
        RemotePath(f"{store.url}/file").read_range(0, 500)
    assert len(store.requests) == attempts


def test_servers_that_compress_are_asked_not_to(store):
    store.root.mkdir()
    (store.root / "file").write_bytes(bytes(range(250)) * 4)
    store.fault = lambda number, request: "compress"
    file = RemotePath(f"{store.url}/file")
    assert file.read_range(250, 100) == bytes(range(100))
    assert file.stamp().num_bytes == 1000 == len(file.read_bytes())


def test_missing_files_are_told_at_once(two_served, tmp_path):
    store = two_served
    with pytest.raises(InputError, match=r"9\.9\.9/dataset_info.json: missing or not readable JSON"):
        read_directory(locate(store.url) / "bridge_dataset" / "9.9.9")
    assert len(store.requests) == 1
    shard = min((store.root / "bridge_dataset" / "1.0.0").glob("*.tfrecord-*"))
    shard.unlink()
    with pytest.raises(InputError, match=rf"{shard.name}: missing, though dataset_info.json lists it"):
        open_at(store.url, tmp_path / "cache")


def test_a_remote_index_is_checked_by_etag_and_read_again_where_that_changed(two_served, tmp_path):
    store, cache = two_served, tmp_path / "cache"
    directory = read_directory(locate(store.url) / "bridge_dataset" / "1.0.0")
    first = open_index(directory, "train", cache)
    size = sum(shard.stat().st_size for shard in (store.root / "bridge_dataset" / "1.0.0").glob("*.tfrecord-*"))
    assert sum(request.end - request.start for request in store.reads()) == size  # one pass
    store.requests.clear()
    assert open_index(directory, "train", cache).digest == first.digest
    assert {request.method for request in store.requests} == {"HEAD"}
    write_bridge(store.root, edit=lambda _, episode: episode["steps/action"].__setitem__((0, 0), 0.25))
    changed = open_index(directory, "train", cache)
    assert changed.digest != first.digest
    assert changed.column("steps/action", "number")[0, 0] == 0.25


def test_a_damaged_remote_shard_is_refused_by_name(two_served, tmp_path):
    shard = min((two_served.root / "bridge_dataset" / "1.0.0").glob("*.tfrecord-*"))
    data = bytearray(shard.read_bytes())
    data[5000] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(InputError, match=rf"{two_served.url}.*{shard.name}.*checksum \(crc32c\) of its data"):
        open_at(two_served.url, tmp_path / "cache")


def test_a_shard_of_many_blocks_is_streamed(store, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "BLOCK_BYTES", 1 << 10)
    folder = write_bridge(store.root)
    local = open_index(read_directory(folder), "train", tmp_path / "local")
    remote = open_index(read_directory(locate(store.url) / "bridge_dataset" / "1.0.0"), "train", tmp_path / "remote")
    assert remote.digest == local.digest
    for path in local.folder.iterdir():
        assert (remote.folder / path.name).read_bytes() == path.read_bytes()
    assert max(request.end - request.start for request in store.reads()) <= 1 << 10


def test_addresses(tmp_path, monkeypatch):
    assert locate(str(tmp_path)) == locate(f"file://{tmp_path}") == tmp_path
    assert str(locate("gs://bucket/oxe/") / "x") == "gs://bucket/oxe/x"
    with pytest.raises(InputError, match="ftp:// is not read"):
        locate("ftp://host/data")
    for protocol, package in (("gs", "gcsfs"), ("s3", "s3fs")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(InputError, match=rf"{protocol}:// needs the package {package}: `pip install {package}`"):
            read_directory(locate(f"{protocol}://bucket/x"))
