"""`python -m vla_jax import`, and `export` of what it made: the same bits, whole or not at all."""

import dataclasses
import hashlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import ROOT, one_device
from tests.convert.test_load_save import CONFIG, QUERY, assert_same_bits, random_parameters, shapes_of, write_config
from vla_jax import tensor_file
from vla_jax.__main__ import main
from vla_jax.convert import weights_folder
from vla_jax.convert.load import load_pretrained
from vla_jax.convert.safetensors_folder import INDEX, SINGLE, SafetensorsFolder
from vla_jax.convert.save import disk_arrays, save
from vla_jax.lazy_tensor import LazyTensor
from vla_jax.parameter_store import load_parameters
from vla_jax.policies.base import PretrainedPart
from vla_jax.run_directory import verify_manifest, write_manifest
from vla_jax.types import InputError

DOCUMENTS = {"tokenizer.json": "{}\n", "generation_config.json": '{"top_p": 0.5}', "merges.txt": "a b\n"}


def hugging_face(folder: Path, dtype=jnp.bfloat16, **options) -> dict[str, np.ndarray]:
    """A folder of CLIP's tiny twin, and its tensors by name."""
    tensors = dict(disk_arrays("clip", random_parameters(shapes_of(dtype=dtype)), prefix="clip"))
    save(folder, tensors.items(), **options)
    write_config(folder)
    for name, text in DOCUMENTS.items():
        (folder / name).write_text(text)
    (folder / "pytorch_model.bin").write_bytes(b"\x80")
    return {name: np.array(tensor, order="C") for name, tensor in tensors.items()}


def run_import(source: Path, out: Path, *options: str) -> int:
    return main(["import", "--family", "clip", "--from", str(source), "--out", str(out), *options])


def run_export(source: Path, out: Path) -> int:
    return main(["export", "--checkpoint", str(source), "--to", "hf", "--out", str(out)])


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hf") / "clip"
    hugging_face(folder)
    return folder


@pytest.fixture(scope="module")
def imported(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("imported") / "clip"
    assert run_import(source, out) == 0
    return out


def part(folder: Path, **changes) -> PretrainedPart:
    whole = PretrainedPart(prefix="clip", family="clip", path=str(folder), frozen=True, settings=CONFIG.settings())
    return dataclasses.replace(whole, **changes)


def bits(folder: Path) -> dict[str, tuple]:
    weights = SafetensorsFolder(folder)
    return {name: (weights.dtype(name), weights.shape(name), weights.read(name).tobytes()) for name in weights.names()}


# ---- what must work


@pytest.mark.parametrize(
    ("dtype", "options"), [(jnp.bfloat16, {}), (np.float16, {}), (np.float32, {"max_shard_bytes": 40_000})]
)
def test_a_folder_comes_back_with_the_same_bits_and_documents(dtype, options, tmp_path, capsys):
    tensors = hugging_face(tmp_path / "source", dtype, **options)
    assert (tmp_path / "source" / INDEX).exists() is bool(options)

    assert run_import(tmp_path / "source", tmp_path / "imported") == 0
    said = capsys.readouterr()
    assert f"{len(tensors)} tensors of clip are 46 parameters" in said.out
    assert not said.err
    assert run_export(tmp_path / "imported", tmp_path / "back") == 0

    verify_manifest(tmp_path / "imported")
    verify_manifest(tmp_path / "back")
    assert bits(tmp_path / "back") == bits(tmp_path / "source")
    for name in (*DOCUMENTS, "config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "source" / name).read_bytes()
    assert not (tmp_path / "back" / "pytorch_model.bin").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"source", "imported", "back"}


def test_an_exported_folder_is_imported_again(imported, tmp_path):
    """It has a manifest of its own, which says nothing of what is made of it."""
    assert run_export(imported, tmp_path / "back") == 0
    assert run_import(tmp_path / "back", tmp_path / "again") == 0
    verify_manifest(tmp_path / "again")
    assert run_export(tmp_path / "again", tmp_path / "once_more") == 0
    assert bits(tmp_path / "once_more") == bits(tmp_path / "back")
    shapes = shapes_of(dtype=jnp.bfloat16)
    assert_same_bits(load_pretrained(part(tmp_path / "again"), shapes), load_pretrained(part(imported), shapes))


def test_each_parameter_keeps_its_own_dtype(tmp_path):
    tensors = hugging_face(tmp_path / "source")
    norms = {name: a.astype(np.float32) for name, a in tensors.items() if "norm" in name}
    (tmp_path / "source" / SINGLE).unlink()
    save(tmp_path / "source", (tensors | norms).items())

    assert run_import(tmp_path / "source", tmp_path / "imported") == 0
    assert run_export(tmp_path / "imported", tmp_path / "back") == 0
    assert bits(tmp_path / "back") == bits(tmp_path / "source")


def test_dtype_casts_and_says_so_in_every_parameter(source, tmp_path):
    assert run_import(source, tmp_path / "wide", "--dtype", "float32") == 0
    narrow = random_parameters(shapes_of(dtype=jnp.bfloat16))
    expected = {path.removeprefix("clip/"): np.asarray(array, np.float32) for path, array in narrow.items()}
    assert_same_bits(load_parameters(tmp_path / "wide").parameters, expected)
    assert_same_bits(
        load_pretrained(part(tmp_path / "wide"), shapes_of()), {f"clip/{p}": a for p, a in expected.items()}
    )


def test_a_cast_folder_goes_back_with_a_config_that_says_its_dtype(source, tmp_path):
    for name, cast in (("as_it_was", ()), ("wide", ("--dtype", "float32"))):
        folder = shutil.copytree(source, tmp_path / f"{name}_source")
        tree = json.loads((folder / "config.json").read_text())
        tree |= {"dtype": "bfloat16", "vision_config": tree["vision_config"] | {"torch_dtype": "bfloat16"}}
        (folder / "config.json").write_text(json.dumps(tree))
        assert run_import(folder, tmp_path / name, *cast) == 0
        assert run_export(tmp_path / name, tmp_path / f"{name}_back") == 0
        found = json.loads((tmp_path / f"{name}_back" / "config.json").read_text())
        expected = "float32" if cast else "bfloat16"
        assert (found["dtype"], found["vision_config"]["torch_dtype"]) == (expected, expected)


def test_a_policys_part_reads_an_imported_folder_as_it_reads_hugging_faces(source, imported):
    shapes = shapes_of(dtype=jnp.bfloat16)
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    path = "clip/vision/stack/blocks/mlp/up/kernel"
    shardings = {path: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "fsdp"))}

    ours = load_pretrained(part(imported), shapes, shardings=shardings)

    assert ours[path].sharding == shardings[path]
    assert_same_bits(ours, load_pretrained(part(source), shapes))
    text_only = dataclasses.replace(CONFIG, vision=None)
    half = load_pretrained(part(imported, settings=text_only.settings()), shapes_of(text_only), disk_dtype="bfloat16")
    assert half.keys() == shapes_of(text_only).keys()
    assert all(array.dtype == np.float32 for array in half.values())


def test_parameters_are_mapped_views_or_go_straight_to_their_shardings(imported):
    views = load_parameters(imported).parameters
    assert not any(array.flags.owndata or array.flags.writeable for array in views.values())
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    shardings = {path: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()) for path in views}
    placed = load_parameters(imported, shardings=shardings)
    assert (placed.step, placed.weights) == (None, "raw")
    assert_same_bits(placed.parameters, views)


def test_what_may_be_missing_is_missing_on_every_way(source, tmp_path, capsys):
    shutil.copytree(source, tmp_path / "source")
    tensors = {name: array for name, array in _tensors(source).items() if name != "visual_projection.weight"}
    (tmp_path / "source" / SINGLE).unlink()
    save(tmp_path / "source", tensors.items())
    assert run_import(tmp_path / "source", tmp_path / "imported") == 2
    allowed = ("--allow-missing", "vision_projection/.*", "text_projection/.*")
    assert run_import(tmp_path / "source", tmp_path / "imported", *allowed) == 0
    assert "absent, as --allow-missing says: vision_projection/kernel" in capsys.readouterr().out

    assert run_export(tmp_path / "imported", tmp_path / "back") == 0
    assert bits(tmp_path / "back") == bits(tmp_path / "source")
    shapes = shapes_of(dtype=jnp.bfloat16)
    with pytest.raises(InputError, match=r"\['vision_projection/kernel'\] are missing"):
        load_pretrained(part(tmp_path / "imported"), shapes)
    found = load_pretrained(part(tmp_path / "imported"), shapes, allow_missing=("clip/vision_projection/kernel",))
    assert shapes.keys() - found.keys() == {"clip/vision_projection/kernel"}


def _tensors(folder: Path) -> dict[str, np.ndarray]:
    weights = SafetensorsFolder(folder)
    return {name: weights.read(name) for name in weights.names()}


# ---- what must be refused


def refused(tmp_path: Path, capsys, run) -> str:
    before = sorted(path.name for path in tmp_path.iterdir())
    assert run() == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.astype(np.float64), f"{QUERY} is float64, expected float32 or bfloat16 or float16"),
        (lambda a: a.astype(np.float32), "the layers of vision/stack/blocks/attention/query/kernel are of several"),
        (lambda a: np.full_like(a, np.inf), f"{QUERY} holds 576 values that are not finite"),
        (lambda a: a[:20], rf"{QUERY} has shape [20, 24], expected [24, 24]"),
    ],
)
def test_a_tensor_that_is_not_as_expected_is_refused_and_nothing_is_left(source, tmp_path, capsys, change, message):
    shutil.copytree(source, tmp_path / "source")
    tensors = _tensors(source)
    (tmp_path / "source" / SINGLE).unlink()
    save(tmp_path / "source", (tensors | {QUERY: np.ascontiguousarray(change(tensors[QUERY]))}).items())
    said = refused(tmp_path, capsys, lambda: run_import(tmp_path / "source", tmp_path / "out"))
    assert message in said
    assert str(tmp_path / "source") in said


def test_families_and_configs_that_do_not_fit_are_refused(source, tmp_path, capsys):
    def other(family: str, folder: Path) -> int:
        return main(["import", "--family", family, "--from", str(folder), "--out", str(tmp_path / "out")])

    assert "'klip' is not known" in refused(tmp_path, capsys, lambda: other("klip", source))
    assert "no model of its own" in refused(tmp_path, capsys, lambda: other("ef_vla", source))
    assert "no such folder" in refused(tmp_path, capsys, lambda: other("clip", tmp_path / "nowhere"))
    assert "exists" in refused(tmp_path, capsys, lambda: run_import(source, source))


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("vision_config", "hidden_size", "24", "describes no model that can be built"),
        ("vision_config", "num_hidden_layers", -1, "describes no model that can be built"),
        ("vision_config", "patch_size", 0, "describes no model that can be built"),
        ("vision_config", "num_attention_heads", 5, "attention width 24 is not a multiple of num_heads=5"),
        ("vision_config", "hidden_act", "swish9", "hidden_act is 'swish9', expected one of"),
        (None, "vision_config", [1], "describes no model that can be built"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused_by_its_file(source, tmp_path, capsys, section, key, value, message):
    shutil.copytree(source, tmp_path / "source")
    file = tmp_path / "source" / "config.json"
    tree = json.loads(file.read_text())
    (tree if section is None else tree[section])[key] = value
    file.write_text(json.dumps(tree))
    said = refused(tmp_path, capsys, lambda: run_import(tmp_path / "source", tmp_path / "out"))
    assert said.startswith(f"python -m vla_jax import: {file}: {message}")


def test_options_that_make_no_sense_are_refused(source, imported, tmp_path, capsys):
    pattern = ("--allow-missing", "[")
    assert "'[' is no regular" in refused(tmp_path, capsys, lambda: run_import(source, tmp_path / "out", *pattern))
    assert "is imported already" in refused(tmp_path, capsys, lambda: run_import(imported, tmp_path / "out"))
    export = ["export", "--checkpoint", str(imported), "--step", "7", "--out", str(tmp_path / "out")]
    assert "--step 7" in refused(tmp_path, capsys, lambda: main(export))


def test_an_imported_folder_that_was_changed_is_refused(imported, tmp_path, capsys):
    for name in ("parameters.safetensors", "source/config.json", "import.json"):
        shutil.copytree(imported, tmp_path / "changed")
        content = bytearray((tmp_path / "changed" / name).read_bytes())
        content[-3] ^= 1
        (tmp_path / "changed" / name).write_bytes(content)
        message = refused(tmp_path, capsys, lambda: run_export(tmp_path / "changed", tmp_path / "out"))
        assert name in message
        with pytest.raises(InputError, match=name):
            load_pretrained(part(tmp_path / "changed"), shapes_of(dtype=jnp.bfloat16))
        shutil.rmtree(tmp_path / "changed")


def test_a_part_of_another_kind_is_refused(imported, tmp_path):
    shapes = shapes_of(dtype=jnp.bfloat16)
    with pytest.raises(InputError, match=r"is bfloat16, expected float32; nothing is cast silently: .*--dtype float32"):
        load_pretrained(part(imported), shapes_of())
    with pytest.raises(InputError, match="weights of clip, expected siglip"):
        load_pretrained(part(imported, family="siglip"), shapes)
    with pytest.raises(InputError, match="projection_dim is 28, this model has 30"):
        load_pretrained(part(imported, settings={"projection_dim": 30}), shapes)
    with pytest.raises(InputError, match=r"text/positions is \[77, 20\], expected \[76, 20\]"):
        load_pretrained(part(imported), shapes | {"clip/text/positions": jax.ShapeDtypeStruct((76, 20), jnp.bfloat16)})
    with pytest.raises(InputError, match=r"\['text/positions'\] have no place"):
        load_pretrained(part(imported), {path: s for path, s in shapes.items() if path != "clip/text/positions"})
    shutil.copytree(imported, tmp_path / "newer")
    tree = json.loads((tmp_path / "newer" / "import.json").read_text())
    (tmp_path / "newer" / "import.json").write_text(json.dumps(tree | {"schema_version": 2}))
    write_manifest(tmp_path / "newer")
    with pytest.raises(InputError, match="schema_version 2, this one reads 1"):
        load_pretrained(part(tmp_path / "newer"), shapes)


def test_weights_for_pictures_normalised_otherwise_are_refused(source, tmp_path, capsys):
    """LAION's CLIPs have the config.json of OpenAI's; here by `import`, and by a policy's part in either folder."""
    shapes, own = shapes_of(dtype=jnp.bfloat16), (CONFIG.vision.normalization,)
    shutil.copytree(source, tmp_path / "laion")
    said = tmp_path / "laion" / "preprocessor_config.json"
    said.write_text(json.dumps({"image_mean": list(own[0].mean), "image_std": own[0].std}))
    assert run_import(tmp_path / "laion", tmp_path / "imported") == 0
    load_pretrained(part(tmp_path / "imported", normalization=own), shapes)
    load_pretrained(part(tmp_path / "laion", normalization=own), shapes)
    other = (own[0]._replace(mean=(0.5, 0.5, 0.5)),)
    for folder in (tmp_path / "laion", tmp_path / "imported"):
        with pytest.raises(InputError, match=r"preprocessor_config.json: image_mean is \[0.48.*, this model has \[0.5"):
            load_pretrained(part(folder, normalization=other), shapes)
    said.write_text(json.dumps({"image_mean": [0.5, 0.5, 0.5]}))
    message = refused(tmp_path, capsys, lambda: run_import(tmp_path / "laion", tmp_path / "out"))
    assert "preprocessor_config.json: image_mean is [0.5, 0.5, 0.5], this model has [0.48" in message


def test_a_disk_without_room_is_one_message_before_anything_is_written(source, imported, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(weights_folder.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 7, 3))
    for run in (lambda: run_import(source, tmp_path / "out"), lambda: run_export(imported, tmp_path / "out")):
        assert "67,802 bytes are needed, 3 are free" in refused(tmp_path, capsys, run)


def test_a_disk_that_fills_up_leaves_nothing_and_is_one_message(source, imported, tmp_path, capsys, monkeypatch):
    class Full(tensor_file._Sink):
        def write(self, data) -> None:
            if len(data) > 4000:
                raise OSError(28, "No space left on device")
            super().write(data)

    monkeypatch.setattr(tensor_file, "_Sink", Full)
    for run in (lambda: run_import(source, tmp_path / "out"), lambda: run_export(imported, tmp_path / "out")):
        assert "could not be written (No space left on device); nothing was left" in refused(tmp_path, capsys, run)


SLOW = """
import sys, time
from vla_jax import tensor_file
from vla_jax.__main__ import main, stop_by_exit
class Slow(tensor_file._Sink):
    def write(self, data):
        super().write(data)
        print("written", flush=True)
        time.sleep(0.2)
tensor_file._Sink = Slow
stop_by_exit()
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("command", ["import", "export"])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_kill_leaves_nothing_under_the_name(source, imported, tmp_path, command, sent):
    ways = {"import": ["--family", "clip", "--from", str(source)], "export": ["--checkpoint", str(imported)]}
    arguments = [command, *ways[command], "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments],
        cwd=ROOT,
        env=one_device(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    process.send_signal(sent)
    said = process.communicate()[1]
    assert process.returncode == (-sent if sent == signal.SIGKILL else 128 + sent)
    assert "Traceback" not in said
    left = [path.name for path in tmp_path.iterdir()]
    assert "out" not in left
    assert sent == signal.SIGKILL or not left


def test_blocks_alone_are_held_in_memory(tmp_path, monkeypatch):
    """Of a bound that is a fraction of the largest parameter, through both commands."""
    held: list[int] = []
    hugging_face(tmp_path / "source")
    monkeypatch.setattr(tensor_file, "BLOCK_BYTES", 1024)
    fill = LazyTensor.fill

    def measured(tensor, buffer, index):
        held.append(buffer.nbytes)
        return fill(tensor, buffer, index)

    monkeypatch.setattr(LazyTensor, "fill", measured)
    assert run_import(tmp_path / "source", tmp_path / "imported") == 0
    assert run_export(tmp_path / "imported", tmp_path / "back") == 0
    assert max(held) <= 1024
    assert sum(held) == 2 * 67_802
    assert bits(tmp_path / "back") == bits(tmp_path / "source")
    digest = hashlib.sha256((tmp_path / "imported" / "parameters.safetensors").read_bytes()).hexdigest()
    manifest = json.loads((tmp_path / "imported" / "MANIFEST.json").read_text())
    assert manifest["files"]["parameters.safetensors"]["sha256"] == digest
