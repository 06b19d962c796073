"""A damaged checkpoint is never trusted: the one before it is used, loudly, or the run stops."""

import json
import logging
import shutil

import numpy as np
import pytest

from tests.toy import series, toy_config, train_toy
from vla_jax.parameter_store import load_parameters
from vla_jax.run_directory import MANIFEST, RunDirectory
from vla_jax.types import InputError

NAMES = ("step", "loss_hex", "batch_digest", "ema_norm")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train_toy(toy_config(), folder)
    return folder


@pytest.fixture
def half(whole, tmp_path):
    """The same run as if it had been stopped at step 15, with steps 10 and 15 kept."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoints" / "20")
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:16]))
    return folder


def payload(folder):
    """The file that holds most of the parameters."""
    return max((folder / "parameters").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else -1)


def flip_bit(folder):
    file = payload(folder)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(folder):
    file = payload(folder)
    file.write_bytes(file.read_bytes()[:-1])


def delete_file(folder):
    payload(folder).unlink()


def delete_manifest(folder):
    (folder / MANIFEST).unlink()


def empty_folder(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def tear_manifest(folder):
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:-40])


def add_file(folder):
    (folder / "parameters" / "extra").write_text("x")


def change_data_position(folder):
    (folder / "data_position.json").write_text('{"next_step": 14}\n')


DAMAGES = [
    flip_bit, truncate, delete_file, delete_manifest, empty_folder, tear_manifest, add_file, change_data_position,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_step_before_a_damaged_one_is_used_loudly(half, whole, caplog, damage):
    damage(half / "checkpoints" / "15")
    with caplog.at_level(logging.ERROR):
        assert train_toy(toy_config(), half)
    assert "DAMAGED CHECKPOINT" in caplog.text
    assert (half / "checkpoints" / "15.damaged").is_dir()
    starts = [json.loads(line) for line in (half / "metrics.jsonl").read_text().splitlines() if "restored_step" in line]
    assert [line["restored_step"] for line in starts] == [0, 10]
    assert series(half, *NAMES) == series(whole, *NAMES)
    assert RunDirectory(half).committed_steps() == [10, 15, 20]


def test_where_every_checkpoint_is_damaged_the_run_stops_and_says_so(half):
    flip_bit(half / "checkpoints" / "10")
    truncate(half / "checkpoints" / "15")
    metrics = (half / "metrics.jsonl").read_text()
    for _ in range(2):
        with pytest.raises(InputError, match="every checkpoint is damaged"):
            train_toy(toy_config(), half)
    assert {entry.name for entry in (half / "checkpoints").iterdir()} == {"10.damaged", "15.damaged"}
    assert (half / "metrics.jsonl").read_text() == metrics
    with pytest.raises(InputError, match=r"of any step; there are \[\]; set aside .* damaged: 10.damaged, 15.damaged$"):
        load_parameters(half)


def test_a_checkpoint_of_a_later_version_is_refused_and_left_alone(half):
    manifest = half / "checkpoints" / "15" / MANIFEST
    manifest.write_text(manifest.read_text().replace('"schema_version": 1', '"schema_version": 9'))
    with pytest.raises(InputError, match="schema_version 9, this version reads 1"):
        train_toy(toy_config(), half)
    assert manifest.exists()


def test_a_damaged_step_that_was_written_again_is_set_aside_again(half):
    for _ in range(2):
        flip_bit(half / "checkpoints" / "15")
        assert train_toy(toy_config(num_steps=15), half)
        assert RunDirectory(half).committed_steps() == [10, 15]
    assert {"15.damaged", "15.damaged-2"} <= {entry.name for entry in (half / "checkpoints").iterdir()}


@pytest.mark.parametrize("damage", [flip_bit, delete_manifest])
def test_damaged_frozen_parameters_stop_the_run(half, damage):
    damage(half / "frozen")
    with pytest.raises(InputError, match="frozen"):
        train_toy(toy_config(), half)


@pytest.mark.parametrize("damage", DAMAGES[:4])
def test_readers_refuse_damage_and_never_take_another_step(half, damage):
    damage(half / "checkpoints" / "15")
    with pytest.raises(InputError, match="15"):
        load_parameters(half, step=15)
    assert (half / "checkpoints" / "15").is_dir()


def test_a_bit_flipped_in_frozen_parameters_is_found_by_readers(half):
    flip_bit(half / "frozen")
    with pytest.raises(InputError, match="sha256 differs"):
        load_parameters(half)


def test_a_flip_without_the_manifest_would_have_gone_unseen(half):
    """Why there is a manifest: Orbax itself restores a flipped bit as if nothing had happened, or at least some."""
    from vla_jax.parameter_store import read_arrays

    folder = half / "checkpoints" / "15"
    before = read_arrays(folder / "parameters")
    file = payload(folder)
    content, silent = file.read_bytes(), 0
    for place in np.linspace(0, len(content) - 1, 12, dtype=int):
        flipped = bytearray(content)
        flipped[place] ^= 1
        file.write_bytes(flipped)
        try:
            after = read_arrays(folder / "parameters")
        except Exception:
            continue
        silent += any(not np.array_equal(before[path], after[path], equal_nan=True) for path in before)
    assert silent > 0
