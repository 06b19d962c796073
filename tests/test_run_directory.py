"""The manifest notices every kind of damage."""

import json

import jsonschema
import pytest

from vla_jax.run_directory import MANIFEST, RunDirectory, verify_manifest, write_manifest
from vla_jax.schemas import schema
from vla_jax.types import InputError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "weights").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "config.json").write_text("{}")
    write_manifest(tmp_path)
    return tmp_path


def test_an_intact_folder_passes_and_its_manifest_fits_the_schema(folder):
    verify_manifest(folder)
    jsonschema.validate(json.loads((folder / MANIFEST).read_text()), schema("manifest"))


def _flip_a_bit(folder):
    data = bytearray((folder / "deep" / "weights").read_bytes())
    data[100] ^= 1
    (folder / "deep" / "weights").write_bytes(data)


def _escape(folder):
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["../outside"] = {"bytes": 0, "sha256": "0" * 64}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _future_version(folder):
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"schema_version": 2}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_flip_a_bit, "sha256 differs"),
        (lambda folder: (folder / "deep" / "weights").write_bytes(b"short"), "5 bytes"),
        (lambda folder: (folder / "config.json").unlink(), "missing"),
        (lambda folder: (folder / "deep" / "stranger").write_text("x"), "not listed"),
        (lambda folder: (folder / MANIFEST).unlink(), "no readable manifest"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "no readable manifest"),
        (_escape, "outside the folder"),
        (_future_version, "schema_version 2"),
    ],
)
def test_damage_is_named(folder, damage, message):
    damage(folder)
    with pytest.raises(InputError, match=message):
        verify_manifest(folder)


def test_only_folders_with_a_manifest_are_committed(tmp_path):
    run = RunDirectory(tmp_path)
    for name in ("10", "200", "30", "40.tmp", "50.damaged", "60"):
        (run.checkpoints / name).mkdir(parents=True)
        if name != "60":
            write_manifest(run.checkpoints / name)
    assert run.committed_steps() == [10, 30, 200]
