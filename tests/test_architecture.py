"""The house rules that a machine can keep: arrows between rooms, file sizes, nothing that executes what it loads."""

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = [
    path.relative_to(ROOT).as_posix()
    for pattern in ("vla_jax/**/*.py", "data_pipelines/**/*.py", "configs/*.py", "train.py", "eval.py")
    for path in sorted(ROOT.glob(pattern))
]
EXPORTED = re.compile(r"vla_jax/convert/targets/\w+/")
"""Templates that are copied into exported PyTorch folders; they import torch and nothing of ours."""

# A room (path prefix, most specific first) -> the project modules it may import.
ARROWS: list[tuple[str, tuple[str, ...]]] = [
    ("vla_jax/types.py", ()),
    ("vla_jax/schemas", ()),
    ("vla_jax/parameters.py", ("vla_jax.types",)),
    ("vla_jax/run_directory.py", ("vla_jax.types",)),
    ("vla_jax/sharding.py", ("vla_jax.types",)),
    ("vla_jax/lazy_tensor.py", ()),
    ("vla_jax/tensor_file.py", ("vla_jax.lazy_tensor", "vla_jax.types")),
    ("vla_jax/placement.py", ("vla_jax.lazy_tensor",)),
    (
        "vla_jax/parameter_store.py",
        ("vla_jax.types", "vla_jax.run_directory", "vla_jax.sharding", "vla_jax.lazy_tensor", "vla_jax.tensor_file")
        + ("vla_jax.placement",),
    ),
    ("vla_jax/nn", ("vla_jax.nn", "vla_jax.types")),
    ("vla_jax/encoders", ("vla_jax.encoders", "vla_jax.nn", "vla_jax.types")),
    ("vla_jax/language", ("vla_jax.language", "vla_jax.nn", "vla_jax.types")),
    (
        "vla_jax/segmentation",
        ("vla_jax.segmentation", "vla_jax.encoders.sam", "vla_jax.nn", "vla_jax.parameters", "vla_jax.types"),
    ),
    ("vla_jax/fusion", ("vla_jax.fusion", "vla_jax.nn", "vla_jax.types")),
    ("vla_jax/actions", ("vla_jax.actions", "vla_jax.nn", "vla_jax.types")),
    (
        "vla_jax/vlms",
        ("vla_jax.vlms", "vla_jax.encoders", "vla_jax.language", "vla_jax.fusion", "vla_jax.nn", "vla_jax.types"),
    ),
    ("vla_jax/policies/base.py", ("vla_jax.types", "vla_jax.language.prompts")),
    (
        "vla_jax/policies",
        ("vla_jax.policies.base", "vla_jax.encoders", "vla_jax.language", "vla_jax.fusion", "vla_jax.actions")
        + ("vla_jax.vlms", "vla_jax.nn", "vla_jax.types"),
    ),
    (
        "vla_jax/training",
        ("vla_jax.training", "vla_jax.policies.base", "vla_jax.sharding", "vla_jax.config", "vla_jax.types")
        + ("vla_jax.parameters", "vla_jax.run_directory", "vla_jax.parameter_store", "data_pipelines.pipeline")
        + ("vla_jax.nn.attention_kernels",),
    ),
    (
        "vla_jax/evaluation",
        ("vla_jax.evaluation", "vla_jax.trained_policy", "vla_jax.run_directory", "vla_jax.types", "data_pipelines")
        + ("vla_jax.environments", "vla_jax.inference"),
    ),
    ("vla_jax/inference", ("vla_jax.inference", "vla_jax.nn.attention_kernels", "vla_jax.types")),
    (
        "vla_jax/planning",
        ("vla_jax.planning", "vla_jax.training", "vla_jax.config", "vla_jax.sharding", "vla_jax.types")
        + ("data_pipelines",),
    ),
    (
        "vla_jax/convert",
        ("vla_jax.convert", "vla_jax.types", "vla_jax.run_directory", "vla_jax.schemas", "vla_jax.parameters")
        + ("vla_jax.lazy_tensor", "vla_jax.tensor_file", "vla_jax.placement"),
    ),
    ("vla_jax/environments", ("vla_jax.environments", "vla_jax.types")),
    ("vla_jax/launch", ("vla_jax.launch", "vla_jax.config", "vla_jax.types")),
    ("data_pipelines/demos", ("data_pipelines", "vla_jax.environments", "vla_jax.types")),
    ("data_pipelines", ("data_pipelines", "vla_jax.types")),
    ("configs", ("configs", "vla_jax", "data_pipelines")),
]
TORCH_MAY_LIVE_IN = ("vla_jax/convert/parity.py",)
TENSORFLOW_MAY_LIVE_IN = "data_pipelines/compatibility/rlds.py"
# Where run, policy and data meet: each parameter is another owner's.
MORE_PARAMETERS = {
    "data_pipelines/pipeline.py:open_pipeline": 8,
    "data_pipelines/compatibility/stream.py:open_stream": 8,
}


@functools.cache
def _tree(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text())


def _imports(file: str) -> set[str]:
    names = set()
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _allowed(file: str) -> tuple[str, ...] | None:
    return next((allowed for room, allowed in ARROWS if file.startswith(room)), None)


def _is_within(name: str, rooms: tuple[str, ...]) -> bool:
    return any(name == room or name.startswith(room + ".") for room in rooms)


def _broken_arrows(file: str, imports: set[str]) -> list[str]:
    ours = {name for name in imports if name.split(".")[0] in ("vla_jax", "data_pipelines", "configs", "tests")}
    allowed = _allowed(file)
    return [] if allowed is None else sorted(name for name in ours if not _is_within(name, allowed))


@pytest.mark.parametrize("file", FILES)
def test_rooms_import_only_along_the_arrows(file):
    assert not _broken_arrows(file, _imports(file)), f"{file} imports against the arrows"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("vla_jax/fusion/x.py", "vla_jax.actions.regression"),
        ("vla_jax/training/x.py", "vla_jax.policies.ef_vla"),
        ("data_pipelines/x.py", "vla_jax.sharding"),
        ("vla_jax/nn/x.py", "vla_jax.encoders.vit"),
        ("vla_jax/encoders/x.py", "vla_jax.vlms.qwen3_vl"),
    ],
)
def test_the_arrow_test_catches_a_wrong_import(file, name):
    assert _broken_arrows(file, {name}) == [name]


@pytest.mark.parametrize("file", FILES)
def test_heavy_frameworks_stay_where_they_belong(file):
    roots = {name.split(".")[0] for name in _imports(file)}
    if file != "data_pipelines/beam.py":
        assert "apache_beam" not in roots
    if file != TENSORFLOW_MAY_LIVE_IN:
        assert not roots & {"tensorflow", "tensorflow_datasets", "dlimp"}
    if file not in TORCH_MAY_LIVE_IN and not EXPORTED.match(file):
        assert not roots & {"torch", "transformers", "peft"}


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith("data_pipelines/compatibility")])
def test_nothing_of_ours_needs_the_compatibility_reader(file):
    assert not [name for name in _imports(file) if name.startswith("data_pipelines.compatibility")]


def test_there_are_files_in_every_room_and_exported_templates():
    """Without them the tests over files would pass empty."""
    assert [file for file in FILES if EXPORTED.match(file)]
    assert not [room for room, _ in ARROWS if not any(file.startswith(room) for file in FILES)]


@pytest.mark.parametrize("file", [file for file in FILES if EXPORTED.match(file)])
def test_exported_templates_need_nothing_of_ours(file):
    roots = {name.split(".")[0] for name in _imports(file)}
    assert not roots & {"vla_jax", "data_pipelines", "jax", "flax"}


@pytest.mark.parametrize("file", FILES)
def test_loading_never_executes(file):
    assert not {name.split(".")[0] for name in _imports(file)} & {"pickle", "dill", "cloudpickle", "marshal", "shelve"}
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Call):
            assert not (isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec"})
            for keyword in node.keywords:
                is_true = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
                assert not (keyword.arg in {"allow_pickle", "trust_remote_code"} and is_true)


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("vla_jax")])
def test_the_step_stays_plain_jax_jit(file):
    banned = {"jit", "value_and_grad", "grad", "Optimizer", "cached_partial"}
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "nnx":
            assert node.attr not in banned, f"{file}:{node.lineno}: nnx.{node.attr}"


def test_files_are_nouns_and_short():
    lengths = {file: len((ROOT / file).read_text().splitlines()) for file in FILES}
    assert not [file for file, length in lengths.items() if length > 600]
    assert sum(length > 400 for length in lengths.values()) <= len(lengths) // 10
    assert not [file for file in FILES if Path(file).stem in {"utils", "util", "common", "helpers", "misc"}]


@pytest.mark.parametrize("file", [file for file in FILES if not EXPORTED.match(file)])
def test_functions_are_short(file):
    for node in ast.walk(_tree(file)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            assert length <= 50, f"{file}:{node.lineno}: {node.name} has {length} lines"
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len([argument for argument in arguments if argument.arg not in ("self", "cls")])
            most = MORE_PARAMETERS.get(f"{file}:{node.name}", 7)
            assert count <= most, f"{file}:{node.lineno}: {node.name} has {count} parameters"


def test_meshes_live_in_sharding_and_training_only():
    elsewhere = [
        file
        for file in FILES
        if not file.startswith(("vla_jax/training", "vla_jax/sharding.py", "vla_jax/parameter_store.py"))
        and any(name.startswith("jax.sharding") for name in _imports(file))
    ]
    assert not elsewhere
