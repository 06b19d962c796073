"""Weights out to safetensors and back: bit-exact, and every kind of damage refused by name."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from vla_jax.convert.load import load_pretrained
from vla_jax.convert.rules import find_family
from vla_jax.convert.safetensors_folder import INDEX, SINGLE
from vla_jax.convert.save import disk_arrays, save
from vla_jax.encoders.clip import ClipConfig, clip_tiny
from vla_jax.parameters import abstract
from vla_jax.policies.base import PretrainedPart
from vla_jax.types import InputError

CONFIG = clip_tiny(vocab_size=300)
TOKENS = "text_model.embeddings.token_embedding.weight"
QUERY = "vision_model.encoder.layers.1.self_attn.q_proj.weight"


def shapes_of(config: ClipConfig = CONFIG, dtype=jnp.float32) -> dict[str, jax.ShapeDtypeStruct]:
    shapes = abstract(lambda: config.build(nnx.Rngs(0))).shapes()
    return {f"clip/{path}": jax.ShapeDtypeStruct(shape.shape, dtype) for path, shape in shapes.items()}


def random_parameters(shapes, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {path: rng.normal(size=shape.shape).astype(shape.dtype) for path, shape in shapes.items()}


def write_config(folder: Path, config: ClipConfig = CONFIG, **changes) -> None:
    tree = {"model_type": "clip"} | config.settings()
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (tree[section] if section else tree)[name] = value
    (folder / "config.json").write_text(json.dumps(tree))


def read(folder: Path, config: ClipConfig = CONFIG, dtype=jnp.float32, **options):
    part = PretrainedPart(prefix="clip", family="clip", path=str(folder), frozen=True, settings=config.settings())
    return load_pretrained(part, shapes_of(config, dtype), **options)


@pytest.fixture(scope="module")
def parameters():
    return random_parameters(shapes_of())


@pytest.fixture(scope="module")
def pristine(parameters, tmp_path_factory) -> tuple[Path, Path]:
    """A folder of one file, and one of shards."""
    single, sharded = (tmp_path_factory.mktemp(name) for name in ("single", "sharded"))
    save(single, disk_arrays("clip", parameters, prefix="clip"))
    save(sharded, disk_arrays("clip", parameters, prefix="clip"), max_shard_bytes=40_000)
    write_config(single)
    write_config(sharded)
    return single, sharded


@pytest.fixture
def folder(pristine, tmp_path) -> Path:
    shutil.copytree(pristine[0], tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture
def sharded(pristine, tmp_path) -> Path:
    shutil.copytree(pristine[1], tmp_path / "weights")
    return tmp_path / "weights"


def rewrite(folder: Path, **changes) -> None:
    """Changes tensors of the single file; None removes one."""
    tensors = load_file(folder / SINGLE)
    for name, array in changes.items():
        name = QUERY if name == "query" else name
        if array is None:
            del tensors[name]
        else:
            tensors[name] = np.array(array, order="C")
    save_file(tensors, folder / SINGLE)


def assert_same_bits(ours, expected) -> None:
    assert ours.keys() == expected.keys()
    for path, array in expected.items():
        got = np.asarray(ours[path])
        assert got.dtype == array.dtype
        assert got.shape == array.shape
        assert got.tobytes() == np.ascontiguousarray(array).tobytes(), path


# ---- what must work


def test_one_file_and_shards_give_the_same_bits_back(parameters, pristine):
    for folder in pristine:
        assert_same_bits(read(folder), parameters)


def test_bfloat16_comes_back_with_the_same_bits(tmp_path):
    parameters = random_parameters(shapes_of(dtype=jnp.bfloat16))
    save(tmp_path, disk_arrays("clip", parameters, prefix="clip"))
    write_config(tmp_path)

    assert_same_bits(read(tmp_path, dtype=jnp.bfloat16), parameters)
    wide = read(tmp_path, disk_dtype="bfloat16")
    assert_same_bits(wide, {path: np.asarray(array, np.float32) for path, array in parameters.items()})


def test_no_shard_is_larger_than_asked_for_and_the_index_names_every_tensor(pristine):
    index = json.loads((pristine[1] / INDEX).read_text())
    shards = sorted(pristine[1].glob("*.safetensors"))

    assert len(shards) > 2
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    stored = {name: (shard.name, array.nbytes) for shard in shards for name, array in load_file(shard).items()}
    assert index["weight_map"] == {name: shard for name, (shard, _) in stored.items()}
    assert index["metadata"]["total_size"] == sum(size for _, size in stored.values())
    for shard in shards:
        assert sum(size for name, size in stored.values() if name == shard.name) <= 40_000


def test_parameters_go_straight_to_their_shardings(parameters, pristine):
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    path = "clip/vision/stack/blocks/mlp/up/kernel"
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "fsdp"))

    loaded = read(pristine[0], shardings={path: sharding})

    assert loaded[path].sharding == sharding
    assert_same_bits(loaded, parameters)


def test_a_policy_without_clip_vision_reads_the_text_half_of_the_whole(parameters, pristine):
    text_only = dataclasses.replace(CONFIG, vision=None)
    expected = {path: array for path, array in parameters.items() if path.startswith("clip/text")}
    assert_same_bits(read(pristine[0], text_only), expected)


def test_position_ids_of_older_releases_are_left_alone(parameters, folder):
    rewrite(folder, **{"text_model.embeddings.position_ids": np.arange(77)[None]})
    assert_same_bits(read(folder), parameters)


def test_the_disk_prefix_stands_before_every_name(parameters):
    names = [name for name, _ in disk_arrays("clip", parameters, prefix="clip", disk_prefix="policy.clip.")]
    assert all(name.startswith("policy.clip.") for name in names)
    assert f"policy.clip.{QUERY}" in names


def test_settings_of_early_releases_win_over_their_section(parameters, folder):
    """OpenAI's B/16 and L/14 say their sizes in text_config_dict as well."""
    tree = json.loads((folder / "config.json").read_text())
    tree["text_config_dict"] = tree.pop("text_config")
    (folder / "config.json").write_text(json.dumps(tree))
    assert_same_bits(read(folder), parameters)


def test_a_parameter_that_may_be_missing_stays_away(parameters, folder):
    rewrite(folder, **{"visual_projection.weight": None})
    with pytest.raises(InputError, match=r"visual_projection\.weight"):
        read(folder)
    found = read(folder, allow_missing=("clip/vision_projection/.*",))
    assert_same_bits(found, {path: a for path, a in parameters.items() if path != "clip/vision_projection/kernel"})
    assert_same_bits(read(folder.parent / "weights", allow_missing=("clip/vision_.*",)), found)


def test_what_may_be_missing_must_be_a_parameter_and_is_missing_whole(folder):
    with pytest.raises(InputError, match=r"no parameter matches \['clip/visual.*'\]"):
        read(folder, allow_missing=("clip/visual.*",))
    rewrite(folder, query=None)  # one layer of three
    with pytest.raises(InputError, match=rf"1 of \d+ tensors are missing: \['{QUERY}'\]"):
        read(folder, allow_missing=("clip/vision/.*",))


@pytest.fixture
def tied(monkeypatch):
    """CLIP with a table that may lie in the file a second time."""
    family = dataclasses.replace(find_family("clip"), tied={"lm_head.weight": TOKENS})
    monkeypatch.setattr("vla_jax.convert.families.clip.FAMILY", family)


def test_a_tied_tensor_may_lie_in_the_file_a_second_time(parameters, folder, tied):
    rewrite(folder, **{"lm_head.weight": load_file(folder / SINGLE)[TOKENS]})
    assert_same_bits(read(folder), parameters)
    assert "lm_head.weight" not in dict(disk_arrays("clip", parameters, prefix="clip"))


@pytest.mark.parametrize("change", ["value", "sign of zero", "shape", "dtype"])
def test_a_tied_tensor_that_differs_is_refused(folder, tied, change):
    tokens = load_file(folder / SINGLE)[TOKENS]
    tokens[7, 3] = 0.0
    copy = tokens.astype(np.float16) if change == "dtype" else tokens[:-1] if change == "shape" else tokens.copy()
    copy[7, 3] = {"value": 1e-30, "sign of zero": -0.0}.get(change, 0.0)
    rewrite(folder, **{TOKENS: tokens, "lm_head.weight": copy})
    with pytest.raises(InputError, match=f"lm_head.weight .* differs from {TOKENS} .*tie_word_embeddings") as error:
        read(folder)
    assert str(folder / SINGLE) in str(error.value)


# ---- what must be refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_config__hidden_act": "gelu"}, "vision_config.hidden_act is 'gelu', this model has 'quick_gelu'"),
        ({"text_config__layer_norm_eps": 1e-6}, "text_config.layer_norm_eps is 1e-06, this model has 1e-05"),
        ({"vision_config__num_attention_heads": 4}, "num_attention_heads is 4, this model has 3"),
        ({"projection_dim": 512}, "projection_dim is 512, this model has 28"),
        ({"model_type": "clip_text_model"}, "vision_config"),
    ],
)
def test_a_config_that_disagrees_is_refused(folder, change, message):
    write_config(folder, **change)
    with pytest.raises(InputError, match=message) as error:
        read(folder)
    assert "config.json" in str(error.value)


@pytest.mark.parametrize("content", [None, "", "{", "[]"])
def test_a_config_that_is_absent_or_unreadable_is_refused(folder, content):
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        read(folder)


def query(pristine) -> np.ndarray:
    return load_file(pristine[0] / SINGLE)[QUERY]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": None}, rf"1 of \d+ tensors are missing: \['{QUERY}'\]"),
        ({"lm_head.weight": np.zeros(3, np.float32)}, r"1 tensors have no place in this model: \['lm_head.weight'\]"),
        ({"query": np.zeros((24, 20), np.float32)}, rf"{QUERY} has shape \[24, 20\], expected \[24, 24\]"),
        (
            {"vision_model.encoder.layers.0.mlp.fc1.weight": np.zeros((24, 40), np.float32)},
            r"fc1.weight has shape \[24, 40\], expected \[40, 24\] .*/mlp/up/kernel; it is the transpose",
        ),
        ({"query": np.zeros((24, 24), np.float16)}, f"{QUERY} is float16, expected float32"),
        ({"query": np.zeros((24, 24), np.int8)}, f"{QUERY} is i8, expected float32"),
        ({"../../etc/passwd": np.zeros(3, np.float32)}, r"no place in this model: \['../../etc/passwd'\]"),
        ({"query": np.full((24, 24), np.nan, np.float32)}, f"{QUERY} holds 576 values that are not finite"),
        ({"logit_scale": np.array(np.inf, np.float32)}, "logit_scale holds 1 values that are not finite"),
        (
            {"vision_model.encoder.layers.3.layer_norm1.bias": np.zeros(24, np.float32)},
            r"no place in this model: \['vision_model.encoder.layers.3",
        ),
    ],
)
def test_a_tensor_that_is_not_as_expected_is_refused_by_name(folder, change, message):
    rewrite(folder, **change)
    with pytest.raises(InputError, match=message) as error:
        read(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-100], r"truncated or overlong: \d+ bytes found, \d+ expected"),
        (lambda data: data + b"0", "truncated or overlong"),
        (lambda data: data[:1000], "too few for its header"),
        (lambda data: b"", "truncated or no safetensors file: 0 bytes"),
        (lambda data: data[:8] + b"}" + data[9:], "header is damaged"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\nsize 9\n", "Git LFS pointer"),
    ],
)
def test_a_damaged_file_is_refused_by_name(folder, damage, message):
    file = folder / SINGLE
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match=message) as error:
        read(folder)
    assert str(file) in str(error.value)


def test_a_missing_shard_is_named(sharded):
    (sharded / sorted(sharded.glob("model-00002*"))[0].name).unlink()
    with pytest.raises(InputError, match=r"model-00002-of-\d+\.safetensors'\], missing from"):
        read(sharded)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weight_map: weight_map | {"logit_scale": "../model.safetensors"}, "outside the folder"),
        (lambda weight_map: weight_map | {"other": weight_map["logit_scale"]}, "other is not in it"),
        (lambda weight_map: {k: v for k, v in weight_map.items() if k != "logit_scale"}, "does not list"),
        (lambda weight_map: {}, 'no "weight_map"'),
    ],
)
def test_an_index_that_disagrees_with_its_shards_is_refused(sharded, change, message):
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"] = change(index["weight_map"])
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(InputError, match=message):
        read(sharded)


def test_a_folder_without_safetensors_says_what_it_has(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    write_config(tmp_path)
    with pytest.raises(InputError, match=r"there are \['config.json', 'pytorch_model.bin'\]"):
        read(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        read(tmp_path / "nowhere")


def test_a_value_beyond_the_dtype_that_is_asked_for_is_refused(folder):
    rewrite(folder, query=np.full((24, 24), 1e6, np.float32))
    with pytest.raises(InputError, match=f"{QUERY} holds values beyond float16"):
        read(folder, dtype=np.float16, disk_dtype="float32")


def test_nothing_is_read_before_all_headers_are_checked(folder, monkeypatch):
    rewrite(folder, query=np.full((24, 24), np.nan, np.float32), logit_scale=np.zeros(2, np.float32))
    with pytest.raises(InputError, match="logit_scale has shape"):
        read(folder)


def test_two_names_for_one_tensor_are_refused(folder):
    text_only = dataclasses.replace(CONFIG, vision=None)
    write_config(folder, text_only)
    tree = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(tree["text_config"] | {"model_type": "clip_text_model", "projection_dim": 28})
    )
    tensors = {name: array for name, array in load_file(folder / SINGLE).items() if name.startswith("text")}
    save_file(tensors | {"final_layer_norm.bias": np.zeros(20, np.float32)}, folder / SINGLE)
    with pytest.raises(InputError, match=r"are both text_model[.]final_layer_norm[.]bias"):
        read(folder, text_only)


def test_saving_refuses_a_folder_with_weights_and_parameters_without_rules(parameters, folder, tmp_path):
    with pytest.raises(InputError, match="already there"):
        save(folder, disk_arrays("clip", parameters, prefix="clip"))
    extra = parameters | {"clip/vision/extra": np.zeros(2, np.float32)}
    with pytest.raises(InputError, match=r"no rule for the model's \['vision/extra'\]"):
        save(tmp_path / "new", disk_arrays("clip", extra, prefix="clip"))
    assert not list((tmp_path / "new").glob("*.safetensors"))
