"""Writing into the cache: whole or not at all, readable by others, and nothing of a killed process stays for ever."""

import os
import stat

import pytest

from data_pipelines import cache


def _abandoned(folder, name, seconds_ago):
    path = folder / name
    if "json" in name:
        path.write_text("{")
    else:
        path.mkdir()
        (path / "part.npy").write_bytes(b"half")
    then = path.stat().st_mtime - seconds_ago
    os.utime(path, (then, then))
    return path


def test_what_a_killed_process_left_is_removed_when_it_is_old_and_only_then(tmp_path):
    day = 24 * 3600
    old = [_abandoned(tmp_path, name, 8 * day) for name in (".index.abcdefgh", ".index.ijklmnop.old")]
    kept = [_abandoned(tmp_path, ".index.qrstuvwx", day), _abandoned(tmp_path, ".table.abcdefgh", 8 * day)]
    stale, fresh = _abandoned(tmp_path, ".s.json.abcdefgh", 8 * day), _abandoned(tmp_path, ".s.json.ijklmnop", 0)
    with cache.new_folder(tmp_path / "index") as folder:
        (folder / "whole").write_text("whole")
    cache.write_json(tmp_path / "s.json", {"a": 1})
    assert not [path for path in [*old, stale] if path.exists()]
    assert all(path.exists() for path in [*kept, fresh])
    assert (tmp_path / "index" / "whole").read_text() == "whole"


def test_others_may_read_what_was_written(tmp_path):
    with cache.new_folder(tmp_path / "index"):
        pass
    cache.write_json(tmp_path / "s.json", {})
    assert stat.S_IMODE((tmp_path / "index").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "s.json").stat().st_mode) == 0o644


def test_json_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="nan"):
        cache.write_json(tmp_path / "s.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []
