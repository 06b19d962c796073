"""`python -m vla_jax export`: what it writes, what it refuses, and that a wrong export leaves nothing behind."""

import dataclasses
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from tests.conftest import ROOT, one_device
from tests.convert.conftest import random_parameters, run_config, write_parameters
from vla_jax.__main__ import main
from vla_jax.commands import export as export_command
from vla_jax.convert import parity, targets
from vla_jax.convert.export import target_names
from vla_jax.convert.rules import disk_tensors, find_family
from vla_jax.convert.safetensors_folder import SafetensorsFolder
from vla_jax.convert.targets import hf
from vla_jax.encoders.clip_features import ClipTokens
from vla_jax.encoders.proprio import ProprioEncoderConfig
from vla_jax.parameter_store import load_parameters
from vla_jax.policies import ef_vla
from vla_jax.run_directory import verify_manifest, write_manifest
from vla_jax.schemas import schema

CODE = [
    *("clip_ef_vla.py", "configuration_ef_vla.py", "configuration_vla.py", "modeling_ef_vla.py", "modeling_vla.py"),
    *("processing_vla.py", "transformer_vla.py"),
]
FILES = [
    *("MANIFEST.json", "README.md", "config.json", "dataset_statistics.json", "model.safetensors", "parity.json"),
    *("preprocessor_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", *CODE),
]


def export(checkpoint: Path, out: Path, *options: str) -> int:
    return main(["export", "--checkpoint", str(checkpoint), "--to", "hf", "--out", str(out), *options])


def refused(checkpoint: Path, out: Path, capsys, *options: str) -> str:
    """The message of an export that exits 2 and leaves nothing in the folder of `out`."""
    root = next(parent for parent in out.parents if parent.exists())
    before = sorted(root.iterdir())
    assert export(checkpoint, out, *options) == 2
    assert sorted(root.iterdir()) == before
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith("python -m vla_jax export: ")
    return message


def read(folder: Path) -> dict[str, np.ndarray]:
    weights = SafetensorsFolder(folder)
    return {name: weights.read(name) for name in weights.names()}


def in_our_layout(folder: Path, parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The exported tensors by the paths of `parameters`, read with the rule tables in the other direction."""
    tensors = read(folder)
    found = {path: np.full_like(array, np.nan) for path, array in parameters.items()}
    for prefix, family, own in (("clip/", "clip", True), ("", "ef_vla", False)):
        mine = {path.removeprefix(prefix): a for path, a in parameters.items() if path.startswith("clip/") is own}
        for tensor in disk_tensors(find_family(family).rules, mine):
            array = tensors.pop(prefix.replace("/", ".") + tensor.name)
            for (path, layer), share in zip(tensor.targets, tensor.to_ours(array), strict=True):
                found[prefix + path][... if layer is None else layer] = share
    assert not tensors, f"tensors that no parameter became: {sorted(tensors)}"
    return found


def test_a_run_becomes_a_whole_folder_that_equals_it(tiny_run, tmp_path):
    out = tmp_path / "exports" / "tiny"
    options = ["--checkpoint", str(tiny_run), "--to", "hf", "--out", str(out)]
    command = [sys.executable, "-m", "vla_jax", "export", *options]
    result = subprocess.run(command, cwd=ROOT, env=one_device(), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    assert [path.name for path in out.parent.iterdir()] == ["tiny"]
    verify_manifest(out)
    report = json.loads((out / "parity.json").read_text())
    jsonschema.validate(report, schema("parity"))
    jsonschema.validate(json.loads((out / "dataset_statistics.json").read_text()), schema("dataset_statistics"))
    assert report["max_relative_error"] <= 1e-5
    assert report["inputs"] >= 64
    assert report["sha256"] == parity.digests(out)
    card = (out / "README.md").read_text()
    assert "| dx | metre | yes |" in card
    assert "6 of 6" in card
    assert str(tiny_run) not in card + (out / "config.json").read_text()
    average = load_parameters(tiny_run, weights="ema").parameters
    for path, array in in_our_layout(out, average).items():
        np.testing.assert_array_equal(array.view(np.int32), average[path].view(np.int32), err_msg=path)


def test_raw_weights_and_earlier_steps_are_exported_when_asked_for(tiny_run, tmp_path):
    assert export(tiny_run, tmp_path / "raw", "--weights", "raw", "--step", "3") == 0
    raw = load_parameters(tiny_run, step=3, weights="raw").parameters
    average = load_parameters(tiny_run, step=3).parameters
    found = in_our_layout(tmp_path / "raw", raw)
    assert all(np.array_equal(found[path], raw[path]) for path in raw)
    assert any(not np.array_equal(raw[path], average[path]) for path in raw)


def test_names_and_bits_survive_the_way_out_and_back(exported, parameter_folder):
    parameters = load_parameters(parameter_folder).parameters
    for path, array in in_our_layout(exported, parameters).items():
        np.testing.assert_array_equal(array.view(np.int32), parameters[path].view(np.int32), err_msg=path)


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        (ef_vla.ef_wo_clip_vision, {"cameras": ("wrist",)}),
        (
            ef_vla.ef_vla_l,
            {
                "text_mask": "valid",
                "clip_features": ClipTokens(last_attention="qq"),
                "proprio": ProprioEncoderConfig(out_width=8, hidden_widths=(6, 7)),
            },
        ),
    ],
)
def test_variants_are_exported_too(preset, changes, tmp_path):
    config = run_config(preset, "quantile", **changes)
    config = dataclasses.replace(
        config,
        policy=dataclasses.replace(
            config.policy,
            head=dataclasses.replace(config.policy.head, hidden_widths=(9,)),
            fusion=dataclasses.replace(config.policy.fusion, value_positions=True),
        ),
    )
    assert export(write_parameters(tmp_path / "parameters", config, datasets=("one",)), tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["max_relative_error"] <= 1e-5


# ---- wrong twins: each must be caught, be named by the first stage that it spoils, and leave nothing


@pytest.fixture(scope="module")
def known_stages():
    """What JAX says, computed once: the twins below are wrong on the torch side alone."""
    stages: dict[bytes, dict[str, np.ndarray]] = {}
    compute = export_command._stages

    def remembered(structure, parameters):
        ours = compute(structure, parameters)

        def look_up(observation):
            key = observation.instruction_tokens.tobytes()
            if key not in stages:
                stages[key] = {name: np.asarray(value) for name, value in ours(observation).items()}
            return stages[key]

        return look_up

    return remembered


@pytest.fixture
def quick(monkeypatch, known_stages):
    monkeypatch.setattr(export_command, "_stages", known_stages)


def swapped(tensors, one: str, other: str):
    return tensors | {one: tensors[other], other: tensors[one]}


BLOCK = "image_pooling.wrist.layers.1"
WRONG_WEIGHTS = {
    "two norms swapped": (
        lambda t: swapped(t, f"{BLOCK}.layer_norm1.bias", f"{BLOCK}.layer_norm2.bias"),
        "step_tokens",
    ),
    "query and key swapped": (
        lambda t: swapped(
            t,
            "clip.text_model.encoder.layers.0.self_attn.q_proj.weight",
            "clip.text_model.encoder.layers.0.self_attn.k_proj.weight",
        ),
        "text_features",
    ),
    "cameras swapped": (lambda t: swapped(t, "fusion.primary.log_scale", "fusion.wrist.log_scale"), "fused_features"),
    "temperature zeroed": (lambda t: t | {"fusion.primary.log_scale": np.float32(0)}, "fused_features/primary"),
    "bias left at zero": (lambda t: t | {"trunk.layers.1.mlp.fc1.bias": 0 * t["trunk.layers.1.mlp.fc1.bias"]}, "trunk"),
    "chunk laid out by dimension": (
        lambda t: t | {"action_head.out.weight": _transposed_chunk(t["action_head.out.weight"])},
        "actions",
    ),
    "bias missing": (lambda t: {n: a for n, a in t.items() if n != "trunk_norm.bias"}, "trunk_norm.bias"),
    "a tensor too many": (lambda t: t | {"trunk_norm.extra": t["trunk_norm.bias"]}, "trunk_norm.extra"),
    "a tensor mis-shaped": (lambda t: t | {"trunk_norm.bias": t["trunk_norm.bias"][:-1].copy()}, "trunk_norm.bias"),
}


def _transposed_chunk(weight: np.ndarray) -> np.ndarray:
    return weight.reshape(5, 10, -1).transpose(1, 0, 2).reshape(weight.shape)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("twin", WRONG_WEIGHTS)
def test_wrong_weights_are_caught(twin, parameter_folder, tmp_path, monkeypatch, capsys):
    spoil, named = WRONG_WEIGHTS[twin]
    right = hf.save
    monkeypatch.setattr(hf, "save", lambda folder, tensors: right(folder, spoil(dict(tensors)).items()))
    assert named in refused(parameter_folder, tmp_path / "out", capsys).split("Stages in order")[0]


WRONG_SETTINGS = {
    "gelu for quick_gelu": (lambda c: c["clip"]["text"].update(activation="gelu"), "text_features"),
    "another epsilon": (lambda c: c["clip"]["vision"].update(epsilon=1e-3), "patch_features/primary"),
    "other heads": (lambda c: c["trunk"].update(num_heads=4), "trunk_output"),
    "whole last block": (lambda c: c["clip_features"].update(last_attention=None), "patch_features/primary"),
    "unnormalised actions": (lambda c: c["action_space"].update(normalization="none"), "predict_action"),
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("twin", WRONG_SETTINGS)
def test_wrong_settings_are_caught(twin, parameter_folder, tmp_path, monkeypatch, capsys):
    spoil, named = WRONG_SETTINGS[twin]
    right = hf._config

    def wrong(export):
        config = right(export)
        spoil(config)
        return config

    monkeypatch.setattr(hf, "_config", wrong)
    message = refused(parameter_folder, tmp_path / "out", capsys)
    assert f"differ at {named!r}" in message


@pytest.mark.usefixtures("quick")
def test_code_that_computes_something_else_is_caught(parameter_folder, tmp_path, monkeypatch, capsys):
    shutil.copytree(hf.TEMPLATES, tmp_path / "templates")
    file = tmp_path / "templates" / "shared" / "processing_vla.py"
    assert "Image.Resampling.BICUBIC" in file.read_text()
    file.write_text(file.read_text().replace("Image.Resampling.BICUBIC", "Image.Resampling.NEAREST"))
    monkeypatch.setattr(hf, "TEMPLATES", tmp_path / "templates")
    assert "differ at 'predict_action'" in refused(parameter_folder, tmp_path / "out", capsys)


@pytest.mark.usefixtures("quick")
def test_an_action_that_is_nan_for_one_dataset_only_is_caught(parameter_folder, tmp_path, monkeypatch, capsys):
    right = export_command._predictions

    def wrong(policy):
        for number, (arguments, chunk) in enumerate(right(policy)):
            yield arguments, np.full_like(chunk, np.nan) if number == 0 else chunk

    monkeypatch.setattr(export_command, "_predictions", wrong)
    assert "differ at 'predict_action': nan" in refused(parameter_folder, tmp_path / "out", capsys)


# ---- targets


NOTE_TARGET = """
from vla_jax.convert.targets import hf

def write(folder, export):
    hf.write(folder, export)
    (folder / "NOTE.txt").write_text(export.policy)

write_report = hf.write_report
"""


@pytest.mark.usefixtures("quick")
def test_a_second_target_is_one_new_file(parameter_folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "note.py").write_text(NOTE_TARGET)
    monkeypatch.setattr(targets, "__path__", [*targets.__path__, str(tmp_path / "targets")])
    assert target_names() == ["hf", "note", "otter", "peft"]
    assert main(["export", "--checkpoint", str(parameter_folder), "--to", "note", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "NOTE.txt").read_text() == "ef_vla"
    with pytest.raises(SystemExit) as stopped:
        main(["export", "--checkpoint", str(parameter_folder), "--to", "nobody", "--out", str(tmp_path / "none")])
    assert stopped.value.code == 2
    assert "note" in capsys.readouterr().err


# ---- bad input


def test_a_folder_that_exists_is_never_touched(parameter_folder, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert "exists" in refused(parameter_folder, tmp_path / "out", capsys)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_a_flipped_bit_in_a_checkpoint_is_refused(tiny_run, tmp_path, capsys):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    largest = max((run / "checkpoints" / "6" / "ema").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    message = refused(run, tmp_path / "new" / "exports" / "out", capsys)
    assert largest.name in message
    assert "damaged" in message


def _edit_statistics(folder: Path, edit) -> None:
    file = folder / "dataset_statistics.json"
    statistics = json.loads(file.read_text())
    edit(statistics)
    file.write_text(json.dumps(statistics))
    write_manifest(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.clear(), "no dataset's statistics"),
        (lambda s: s["bridge_dataset"].pop("action"), "bridge_dataset.action has no ['mean'"),
        (lambda s: s["bridge_dataset"]["proprio"].pop("q99"), "bridge_dataset.proprio has no ['q99']"),
        (lambda s: [v.pop() for v in s["bridge_dataset"]["action"].values()], "9 dimensions, the action space has 10"),
    ],
)
def test_unusable_statistics_are_refused(edit, message, parameter_folder, tmp_path, capsys):
    folder = shutil.copytree(parameter_folder, tmp_path / "parameters")
    _edit_statistics(folder, edit)
    assert message in refused(folder, tmp_path / "out", capsys)


@pytest.mark.parametrize("name", ["dataset_statistics.json", "config.json"])
def test_a_folder_without_statistics_or_configuration_is_refused(name, parameter_folder, tmp_path, capsys):
    folder = shutil.copytree(parameter_folder, tmp_path / "parameters")
    (folder / name).unlink()
    write_manifest(folder)
    assert name in refused(folder, tmp_path / "out", capsys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head/out/bias": np.full(50, np.nan, np.float32)}, "head/out/bias"),
        ({"head/out/bias": np.zeros(49, np.float32)}, "another shape"),
        ({"head/out/extra": np.zeros(1, np.float32)}, "have no place"),
        ({"head/out/bias": None}, "are missing"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(change, message, tmp_path, capsys):
    folder = write_parameters(tmp_path / "parameters", run_config(), **change)
    assert message in refused(folder, tmp_path / "out", capsys)


def test_nothing_there_and_unknown_options_exit_2(tmp_path, capsys):
    assert "nowhere" in refused(tmp_path / "nowhere", tmp_path / "out", capsys)
    for line in (["export", "--out", "x"], ["export", "--weights", "best"], ["no-such-command"], []):
        with pytest.raises(SystemExit) as stopped:
            main(line)
        assert stopped.value.code == 2


def test_an_export_that_is_stopped_leaves_nothing(parameter_folder, tmp_path):
    options = ["--checkpoint", str(parameter_folder), "--out", str(tmp_path / "exports" / "out")]
    process = subprocess.Popen([sys.executable, "-m", "vla_jax", "export", *options], cwd=ROOT, env=one_device())
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("exports/.out.*/model.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.terminate()
    assert process.wait(60) == 143
    assert list(tmp_path.iterdir()) == []


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "export" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_large_exports_lie_in_shards(parameter_folder, tmp_path, monkeypatch):
    right = hf.save
    monkeypatch.setattr(hf, "save", lambda folder, tensors: right(folder, tensors, max_shard_bytes=100_000))
    assert export(parameter_folder, tmp_path / "out") == 0
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 3
    assert read(tmp_path / "out").keys() == index["weight_map"].keys()
    assert len(random_parameters(run_config())) < len(index["weight_map"])
