"""Each damage of a dataset folder gives one InputError that names the file, before training starts."""

import json
import struct

import pytest
from pipeline_setup import open_generated, requirements, tokenize_bytes

from data_pipelines.config import DataConfig, MixtureEntry
from data_pipelines.index.tfrecord import masked_crc
from data_pipelines.pipeline import open_pipeline
from tests.rlds_episodes import write_bridge
from vla_jax.types import InputError


def first_shard(folder):
    return min(folder.glob("*.tfrecord-*"))


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def cut_between_records(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    path.write_bytes(data[: 16 + length])


def foreign_record(path):
    """Sound framing around something that is no Example."""
    data = b"\xff" * 64
    length = struct.pack("<Q", len(data))
    record = length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))
    path.write_bytes(record * 2)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 123456\n"
DAMAGES = {
    "missing": (lambda path: path.unlink(), "missing"),
    "empty": (lambda path: path.write_bytes(b""), r"empty \(0 bytes\)"),
    "lfs pointer": (lambda path: path.write_bytes(POINTER), "Git LFS pointer"),
    "cut inside a record": (lambda path: path.write_bytes(path.read_bytes()[:-100]), "truncated"),
    "cut inside a header": (lambda path: path.write_bytes(path.read_bytes() + b"\x01\x02"), "truncated"),
    "cut between records": (cut_between_records, r"1 records, dataset_info.json says 2 \(shardLengths\)"),
    "flipped bit in the data": (lambda path: flip(path, 5000), r"checksum \(crc32c\) of its data"),
    "flipped bit in a length": (lambda path: flip(path, 3), r"checksum \(crc32c\) of its length"),
    "not an example": (foreign_record, "not a tf.train.Example"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_shard_is_refused_by_name(tmp_path, name):
    damage, message = DAMAGES[name]
    path = first_shard(write_bridge(tmp_path))
    damage(path)
    with pytest.raises(InputError, match=message) as error:
        open_generated(tmp_path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["missing", "empty", "cut inside a record", "flipped bit in the data"])
def test_damage_after_indexing_is_noticed_at_the_next_start(tmp_path, name):
    damage, message = DAMAGES[name]
    path = first_shard(write_bridge(tmp_path))
    open_generated(tmp_path)
    damage(path)
    with pytest.raises(InputError, match=message):
        open_generated(tmp_path)


def edit_json(path, edit):
    tree = json.loads(path.read_text())
    edit(tree)
    path.write_text(json.dumps(tree))


def steps_of(tree):
    return tree["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]


def test_wrong_record_count_is_refused(tmp_path):
    folder = write_bridge(tmp_path)
    edit_json(folder / "dataset_info.json", lambda tree: tree["splits"][0].update(shardLengths=["2", "2"]))
    with pytest.raises(InputError, match=r"1 records, dataset_info.json says 2"):
        open_generated(tmp_path)


def test_declared_but_absent_feature_is_refused(tmp_path):
    folder = write_bridge(tmp_path)
    extra = {"tensor": {"shape": {}, "dtype": "float32", "encoding": "none"}}
    edit_json(folder / "features.json", lambda tree: steps_of(tree).update(extra=extra))
    with pytest.raises(InputError, match=r"lacks 'steps/extra', which features.json declares"):
        open_generated(tmp_path)


def test_feature_that_the_spec_reads_but_the_data_lack_is_refused(tmp_path):
    folder = write_bridge(tmp_path)
    edit_json(
        folder / "features.json", lambda tree: steps_of(tree)["observation"]["featuresDict"]["features"].pop("state")
    )
    with pytest.raises(InputError, match=r"no number 'steps/observation/state'.*really bridge_dataset 1.0.0"):
        open_generated(tmp_path)


def test_wrong_shape_is_refused(tmp_path):
    folder = write_bridge(tmp_path)
    edit_json(
        folder / "features.json", lambda tree: steps_of(tree)["action"]["tensor"].update(shape={"dimensions": ["9"]})
    )
    with pytest.raises(InputError, match="'steps/action' has 70 numbers"):
        open_generated(tmp_path)


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_missing_or_torn_description_is_refused(tmp_path, file):
    folder = write_bridge(tmp_path)
    (folder / file).write_text((folder / file).read_text()[:50])
    with pytest.raises(InputError, match=f"{file}: missing or not readable JSON"):
        open_generated(tmp_path)
    (folder / file).unlink()
    with pytest.raises(InputError, match=f"{file}: missing or not readable JSON"):
        open_generated(tmp_path)


def test_missing_directory_unknown_split_and_unknown_dataset_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"bridge_dataset/1.0.0: no such dataset directory"):
        open_generated(tmp_path)
    write_bridge(tmp_path)
    with pytest.raises(InputError, match=r"no split 'test'; it has \['train'\]"):
        open_generated(tmp_path, split="test")
    with pytest.raises(InputError, match=r"no dataset 'bridge_v3'; there are \[.*'bridge_dataset'.*'fractal"):
        open_generated(tmp_path, mixture={"bridge_v3": 1.0})


def test_a_dataset_of_unpublished_version_asks_for_one(tmp_path):
    with pytest.raises(InputError, match=r"data.mixture: rh20t: its version is not published; give MixtureEntry.ver"):
        open_generated(tmp_path, mixture={"rh20t": 1.0})
    data = DataConfig(root=str(tmp_path), mixture=(MixtureEntry(name="rh20t", version="2.5.0"),))
    with pytest.raises(InputError, match=r"^\S*rh20t/2.5.0: no such dataset directory"):
        open_pipeline(
            data, requirements(), tokenize_bytes, seed=0, batch_size=1, cache=tmp_path / "cache", quarantine=None
        )


def test_another_dataset_under_the_name_is_refused(tmp_path):
    folder = write_bridge(tmp_path)
    edit_json(folder / "dataset_info.json", lambda tree: tree.update(version="0.1.0"))
    with pytest.raises(
        InputError, match=r"it is bridge_dataset 0.1.0, the folder and data.mixture say bridge_dataset 1.0"
    ):
        open_generated(tmp_path)


def test_a_file_template_cannot_leave_the_folder(tmp_path):
    folder = write_bridge(tmp_path)
    edit_json(folder / "dataset_info.json", lambda tree: tree["splits"][0].update(filepathTemplate="../{SPLIT}"))
    with pytest.raises(InputError, match="leaves the dataset directory"):
        open_generated(tmp_path)
