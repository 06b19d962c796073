"""Damaged data end train.py with one message that names the file, before anything is written."""

import json
import logging

import pytest

import train
from tests.conftest import ROOT
from tests.rlds_episodes import write_bridge

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 123456\n"


def count_wrongly(shard):
    path = shard.parent / "dataset_info.json"
    tree = json.loads(path.read_text())
    tree["splits"][0]["shardLengths"] = ["5", "5"]
    path.write_text(json.dumps(tree))


DAMAGES = {
    "missing": (lambda shard: shard.unlink(), ": missing, though dataset_info.json lists it"),
    "truncated": (lambda shard: shard.write_bytes(shard.read_bytes()[:-100]), "truncated"),
    "zero-byte": (lambda shard: shard.write_bytes(b""), "empty (0 bytes)"),
    "LFS pointer": (lambda shard: shard.write_bytes(POINTER), "Git LFS pointer"),
    "wrong count": (count_wrongly, "2 records, dataset_info.json says 5"),
}


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_data_are_one_message_and_exit_2(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(ROOT)
    damage, message = DAMAGES[name]
    shard = min(write_bridge(tmp_path / "data").glob("*.tfrecord-*"))
    damage(shard)
    before, handlers = content(tmp_path / "data"), logging.root.handlers[:]
    options = ["--config", "configs/ef_vla_bridge.py:tiny", "--data.root", str(tmp_path / "data")]
    code = train.main([*options, "--run-dir", str(tmp_path / "run")])
    logging.root.handlers[:] = handlers
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert line.startswith("train.py: ")
    assert str(shard) in line
    assert message in line
    assert content(tmp_path / "data") == before
    assert content(tmp_path / "run") == {}
