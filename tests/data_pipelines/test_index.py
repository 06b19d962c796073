"""The sidecar: the same numbers, texts and picture bytes as the records hold, found again, built again when due."""

import json
import shutil

import numpy as np
import pytest

from data_pipelines.index import shard_index, sidecar
from data_pipelines.index.dataset_directory import read_directory
from data_pipelines.index.shard_reader import read_range
from data_pipelines.index.sidecar import open_index
from tests.rlds_episodes import BRIDGE_CAMERAS, FRACTAL, bridge_episode, fractal_episode, write_bridge, write_fractal
from vla_jax.types import InputError


def open_split(folder, cache, split="train", jobs=1):
    return open_index(read_directory(folder), split, cache, jobs=jobs)


def pictures(index, key):
    shard = np.repeat(index.episodes[:, 0], index.episodes[:, 4])
    spans = index.column(key, "image")
    return [read_range(index.shards[s], int(o), int(n)) for s, (o, n) in zip(shard, spans)]


def test_columns_equal_what_was_written_over_several_shards(tmp_path):
    folder = write_bridge(tmp_path, lengths=(5, 1, 3), shards=3)
    index = open_split(folder, tmp_path / "cache")
    episodes = [bridge_episode(number, length, (32, 32)) for number, length in enumerate((5, 1, 3))]
    assert index.first_step.tolist() == [0, 5, 6, 9]
    for key in ("steps/action", "steps/observation/state", "steps/is_last"):
        written = np.concatenate([episode[key] for episode in episodes])
        np.testing.assert_array_equal(index.column(key, "number"), written.astype(index.column(key, "number").dtype))
    for key in BRIDGE_CAMERAS:
        assert pictures(index, key) == [picture for episode in episodes for picture in episode[key]]
    texts = [index.texts[place] for place in index.column("steps/language_instruction", "text")]
    assert texts == [text for episode in episodes for text in episode["steps/language_instruction"]]
    assert index.column("episode_metadata/episode_id", "number").tolist() == [1000, 1001, 1002]


def test_dict_actions_matrices_and_other_dtypes_keep_shape_and_dtype(tmp_path):
    index = open_split(write_fractal(tmp_path), tmp_path / "cache")
    episodes = [fractal_episode(number, length, (24, 40)) for number, length in enumerate((6, 9))]
    for key, feature in FRACTAL.items():
        if feature.kind == "number" and key.startswith("steps/") and "embedding" not in key:
            column = index.column(key, "number")
            assert column.shape == (15, *feature.shape)
            assert column.dtype == feature.dtype
            np.testing.assert_array_equal(
                column, np.concatenate([episode[key] for episode in episodes]).astype(column.dtype)
            )


def test_real_sample_pictures_and_numbers_equal_an_independent_search(shared_data, tmp_path):
    """JPEGs by their markers, in order of appearance, with no notion of the wire format."""
    folder = shared_data / "bridge_dataset" / "1.0.0"
    index = open_split(folder, tmp_path)
    assert (index.num_episodes, index.num_steps) == (25, 250)
    data = index.shards[0].read_bytes()
    for key in (f"steps/observation/image_{number}" for number in range(4)):
        for picture in pictures(index, key):
            assert picture.startswith(b"\xff\xd8")
            assert picture.endswith(b"\xff\xd9")
            assert picture in data
    actions = index.column("steps/action", "number")
    assert data.count(actions[:10].astype("<f4").tobytes()) == 1


def test_indexing_twice_reads_nothing_again_and_gives_the_same_bytes(tmp_path):
    folder = write_bridge(tmp_path)
    first = open_split(folder, tmp_path / "cache")
    times = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    again = open_split(folder, tmp_path / "cache")
    assert {path: path.stat().st_mtime_ns for path in again.folder.iterdir()} == times


def test_several_processes_write_the_same_bytes_and_pass_errors_on(tmp_path, monkeypatch):
    monkeypatch.setattr(sidecar, "SMALL_SPLIT_BYTES", 0)
    folder = write_bridge(tmp_path)
    one, two = open_split(folder, tmp_path / "one"), open_split(folder, tmp_path / "two", jobs=2)
    assert two.digest == one.digest
    for path in one.folder.iterdir():
        assert (two.folder / path.name).read_bytes() == path.read_bytes()
    last = sorted(folder.glob("*.tfrecord-*"))[-1]
    last.write_bytes(last.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"00001-of-00002.*truncated"):
        open_split(folder, tmp_path / "three", jobs=2)


def test_changed_shards_are_indexed_again_even_at_the_same_size(tmp_path):
    folder = write_bridge(tmp_path, shards=1)
    before = open_split(folder, tmp_path / "cache")

    def other_number(_, episode):
        episode["steps/action"][0, 0] = 0.25

    shutil.rmtree(folder)
    write_bridge(tmp_path, shards=1, edit=other_number)
    after = open_split(folder, tmp_path / "cache")
    assert after.tree["shards"][0]["bytes"] == before.tree["shards"][0]["bytes"]
    assert after.digest != before.digest
    assert after.column("steps/action", "number")[0, 0] == 0.25


def test_a_sidecar_beside_the_data_is_used_once_it_proves_valid(tmp_path, caplog):
    folder = write_bridge(tmp_path)
    built = open_split(folder, tmp_path / "cache")
    beside = folder / "index" / "train"
    shutil.copytree(built.folder, beside)
    assert open_split(folder, tmp_path / "fresh").folder == beside
    assert not (tmp_path / "fresh" / "bridge_dataset" / "1.0.0" / "train" / "index").exists()
    tree = json.loads((beside / "index.json").read_text())
    tree["shards"][0]["digest"] = "0" * 64
    (beside / "index.json").write_text(json.dumps(tree))
    assert open_split(folder, tmp_path / "fresh2").folder != beside
    assert "has changed" in caplog.text


@pytest.mark.parametrize("damage", ["truncate", "missing", "outside", "json"])
def test_a_damaged_sidecar_is_built_again(tmp_path, damage):
    folder = write_bridge(tmp_path)
    index = open_split(folder, tmp_path / "cache")
    expected = pictures(index, BRIDGE_CAMERAS[0])
    column = index.folder / index.tree["features"][BRIDGE_CAMERAS[0]]["file"]
    if damage == "truncate":
        column.write_bytes(column.read_bytes()[:-40])
    elif damage == "missing":
        column.unlink()
    elif damage == "outside":
        np.save(column, np.load(column) + [[1 << 40, 0]])
    else:
        (index.folder / "index.json").write_text('{"schema_version": 1}')
    assert pictures(open_split(folder, tmp_path / "cache"), BRIDGE_CAMERAS[0]) == expected


def test_a_read_only_dataset_folder_stays_as_it_is(tmp_path):
    folder = write_bridge(tmp_path)
    names = sorted(path.name for path in folder.iterdir())
    folder.chmod(0o555)
    try:
        open_split(folder, tmp_path / "cache")
    finally:
        folder.chmod(0o755)
    assert sorted(path.name for path in folder.iterdir()) == names


def test_a_failed_build_leaves_no_sidecar_and_keeps_the_whole_shards_parts_until_it_succeeds(tmp_path, monkeypatch):
    folder = write_bridge(tmp_path)
    last = sorted(folder.glob("*.tfrecord-*"))[-1]
    whole = last.read_bytes()
    last.write_bytes(whole[:-3])
    with pytest.raises(InputError, match="truncated"):
        open_split(folder, tmp_path / "cache")
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert [path.suffix for path in left] == [".npz"]
    last.write_bytes(whole)
    read = []
    read_records = shard_index.read_records
    monkeypatch.setattr(shard_index, "read_records", lambda path: read.append(path) or read_records(path))
    assert open_split(folder, tmp_path / "cache").num_episodes == 3
    assert read == [last]
    assert not (tmp_path / "cache" / "bridge_dataset" / "1.0.0" / "train" / "parts").exists()


def test_wide_numbers_stay_out_and_say_so(tmp_path):
    index = open_split(write_bridge(tmp_path), tmp_path / "cache")
    with pytest.raises(InputError, match=r"language_embedding.*more than 100 numbers"):
        index.column("steps/language_embedding", "number")
