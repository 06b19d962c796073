"""A folder that `python -m vla_jax import` makes: Hugging Face weights in our layout, and what lay beside them.

    FOLDER/parameters.safetensors   by path, in the dtype of the file that they came from
    FOLDER/import.json              the family, the paths that the file lacked, the dtype of a cast
    FOLDER/source/                  config.json, tokenizer and whatever else is no weights, as it was
    FOLDER/MANIFEST.json            digests

A policy's part reads it like a Hugging Face folder; `export` makes one of it again, bit for bit.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from vla_jax.convert.disk_parameters import check_settings
from vla_jax.convert.normalization import check_normalization
from vla_jax.convert.rules import find_family, present_parts
from vla_jax.convert.safetensors_folder import INDEX, interpreting, read_json
from vla_jax.convert.save import lazy_tensors, save
from vla_jax.lazy_tensor import LazyTensor, of_array
from vla_jax.run_directory import MANIFEST, verify_manifest
from vla_jax.tensor_file import PARAMETERS_FILE, read_tensor_file, write_tensor_file
from vla_jax.types import InputError, PictureNormalization

IMPORT = "import.json"
SOURCE = "source"
SCHEMA_VERSION = 1
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".npz")
"""Endings of files that are not taken along, whatever they are called."""
SUPERSEDED = (INDEX, MANIFEST)
"""What `export` writes anew: an exported folder may be imported again."""


class Part(Protocol):
    """`vla_jax.policies.base.PretrainedPart`."""

    prefix: str
    family: str
    path: str | None
    settings: Mapping[str, Any]
    normalization: tuple[PictureNormalization, ...]


@dataclasses.dataclass(frozen=True)
class ImportedFolder:
    folder: Path
    family: str
    missing: tuple[str, ...]
    """Paths that the file lacked."""
    cast: str | None
    """The dtype that the import was told to give all parameters; None: they are as the file had them."""

    @property
    def source(self) -> Path:
        return self.folder / SOURCE

    def settings(self) -> dict[str, Any]:
        """In Hugging Face's words."""
        file = self.source / "config.json"
        with interpreting(file):
            return find_family(self.family).settings(read_json(file))

    def parameters(self) -> dict[str, np.ndarray]:
        """Views of the mapped file."""
        return read_tensor_file(self.folder / PARAMETERS_FILE)


def is_imported(folder: Path) -> bool:
    return (folder / IMPORT).is_file()


def open_imported(folder: Path) -> ImportedFolder:
    """Digests are the caller's to verify."""
    tree = read_json(folder / IMPORT)
    if tree.get("schema_version") != SCHEMA_VERSION:
        found = tree.get("schema_version")
        raise InputError(f"{folder / IMPORT}: schema_version {found!r}, this one reads {SCHEMA_VERSION}; import again")
    return ImportedFolder(folder, tree["family"], tuple(tree["missing"]), tree["cast"])


def write_imported(
    folder: Path,
    source: Path,
    family: str,
    parameters: Mapping[str, LazyTensor],
    *,
    missing: Collection[str],
    cast: str | None,
    advance: Callable[[int], None],
) -> dict[Path, str]:
    """Everything but the manifest. Args: source: the Hugging Face folder; advance: as of `write_tensor_file`.

    Returns: the sha256 of the file of parameters.
    """
    _copy_documents(source, folder / SOURCE)
    tree = {"schema_version": SCHEMA_VERSION, "family": family, "missing": sorted(missing), "cast": cast}
    (folder / IMPORT).write_text(json.dumps(tree, indent=1) + "\n")
    return {folder / PARAMETERS_FILE: write_tensor_file(folder / PARAMETERS_FILE, parameters, advance=advance)}


def write_hugging_face(
    imported: ImportedFolder,
    folder: Path,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    *,
    advance: Callable[[int], None],
) -> dict[Path, str]:
    """The Hugging Face folder again; everything but a manifest. Args: shapes: of all the model's parameters.

    Returns: as `save`.
    """
    shutil.copytree(imported.source, folder, dirs_exist_ok=True)
    if imported.cast is not None:
        config = _with_dtype(read_json(folder / "config.json"), imported.cast)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    lacking = {path: shapes[path] for path in imported.missing}
    tensors = lazy_tensors(imported.family, imported.parameters(), lacking=lacking)
    return save(folder, tensors.items(), advance=advance)


def imported_parameters(
    folder: Path,
    part: Part,
    wanted: Mapping[str, jax.ShapeDtypeStruct],
    dtypes: Mapping[str, str],
    dispensable: Collection[str],
) -> dict[str, LazyTensor]:
    """As `disk_parameters`: of a policy's part, after the same checks."""
    verify_manifest(folder)
    imported = open_imported(folder)
    if imported.family != part.family:
        raise InputError(
            f"{folder / IMPORT}: weights of {imported.family}, expected {part.family}; name another folder"
        )
    check_settings(imported.source / "config.json", part.settings, imported.settings())
    check_normalization(imported.source, part.normalization)
    found, file = imported.parameters(), folder / PARAMETERS_FILE
    rules = find_family(part.family).rules
    parts = present_parts(rules, wanted)
    left_alone = {path for rule in rules if rule.part not in parts for path in rule.paths}
    if missing := sorted(wanted.keys() - found.keys() - set(dispensable)):
        raise InputError(f"{file}: {missing[:5]} are missing ({len(missing)} parameters); import the whole model")
    if unexpected := sorted(found.keys() - wanted.keys() - left_alone):
        raise InputError(f"{file}: {unexpected[:5]} have no place in this model; they are of another size of model")
    chosen = {path: of_array(found[path]) for path in wanted if path in found}
    for path, tensor in chosen.items():
        if tensor.shape != tuple(wanted[path].shape):
            raise InputError(f"{file}: {path} is {list(tensor.shape)}, expected {list(wanted[path].shape)}")
        if tensor.dtype.name != dtypes[path]:
            raise InputError(
                f"{file}: {path} is {tensor.dtype.name}, expected {dtypes[path]}; nothing is cast silently: "
                f"import again with --dtype {dtypes[path]}"
            )
    return chosen


def _with_dtype(tree: Any, dtype: str) -> Any:
    """config.json that says `dtype` wherever it names one: transformers loads what it says, not what the file has."""
    if isinstance(tree, dict):
        return {key: dtype if key in ("dtype", "torch_dtype") else _with_dtype(tree[key], dtype) for key in tree}
    return [_with_dtype(item, dtype) for item in tree] if isinstance(tree, list) else tree


def _copy_documents(source: Path, target: Path) -> None:
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name not in SUPERSEDED and not path.name.endswith((*WEIGHTS, ".index.json")):
            shutil.copyfile(path, target / path.name)
