"""Hugging Face weights into parameters: strict, one tensor in memory at a time.

Everything that can be checked without reading a weight is checked first: config.json against the model's
settings, then names, shapes and dtypes. Nothing is skipped but what the family's table names.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from vla_jax.convert.rules import DiskTensor, Family, disk_tensors, find_family, present_parts
from vla_jax.convert.safetensors_folder import SafetensorsFolder, read_json
from vla_jax.types import InputError, Parameters


class Part(Protocol):
    """`vla_jax.policies.base.PretrainedPart`."""

    prefix: str
    family: str
    path: str | None
    settings: Mapping[str, Any]


def load_pretrained(
    part: Part,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    *,
    shardings: Mapping[str, jax.sharding.Sharding] | None = None,
    disk_dtype: str | None = None,
) -> Parameters:
    """Reads the parameters of `part`, by their whole path.

    Args:
        part: what to read, and the folder that it lies in.
        shapes: of the policy's parameters; those under `part.prefix` are read.
        shardings: by whole path; each parameter goes straight to its own. None: the default device.
        disk_dtype: `float32`, `bfloat16`, `float16`: what the file must hold, cast to the parameters' dtype.
            None: the parameters' own.

    Raises:
        InputError: the folder is not whole, not of this architecture, or holds a value that is not finite.
    """
    if part.path is None:
        raise InputError(f"no folder of {part.family} weights is named for {part.prefix!r}")
    folder, family, start = Path(part.path), find_family(part.family), f"{part.prefix}/"
    wanted = {path.removeprefix(start): shape for path, shape in shapes.items() if path.startswith(start)}
    assert wanted, f"no parameter lies under {part.prefix!r}"
    weights = SafetensorsFolder(folder)
    config = read_json(folder / "config.json")
    _check_settings(folder / "config.json", part.settings, family.settings(config))
    tensors = disk_tensors(family.rules, wanted)
    names = _match_names(weights, config, family, tensors, wanted)
    for tensor in tensors:
        _check_header(weights, names[tensor.name], tensor, disk_dtype)
    return _read(weights, names, tensors, wanted, start, shardings or {})


def _check_settings(file: Path, expected: Mapping[str, Any], found: Mapping[str, Any], where: str = "") -> None:
    for key, value in expected.items():
        name = f"{where}{key}"
        if isinstance(value, Mapping) and isinstance(found.get(key), Mapping):
            _check_settings(file, value, found[key], f"{name}.")
        elif key not in found:
            raise InputError(f"{file}: has no {name}, expected {value!r}; these weights are of another kind of model")
        elif found[key] != value:
            raise InputError(
                f"{file}: {name} is {found[key]!r}, this model has {value!r}; choose the preset of these weights"
            )


def _match_names(
    weights: SafetensorsFolder,
    config: Mapping[str, Any],
    family: Family,
    tensors: list[DiskTensor],
    wanted: Mapping[str, Any],
) -> dict[str, str]:
    """Name in the rules -> name in the file, for every tensor; both ways complete."""
    expected = {tensor.name for tensor in tensors}
    parts = present_parts(family.rules, wanted)
    names: dict[str, str] = {}
    unexpected = []
    for stored in weights.names():
        name = family.canonical_name(stored, config)
        if name in names:
            raise InputError(f"{weights.folder}: {stored} and {names[name]} are both {name}; one of them is stale")
        if name in expected:
            names[name] = stored
        elif not family.leaves_alone(name, parts):
            unexpected.append(stored)
    if missing := sorted(expected - names.keys()):
        raise InputError(
            f"{weights.folder}: {len(missing)} of {len(expected)} tensors are missing: {missing[:5]}; the download is "
            f"incomplete or of another architecture{_example(unexpected)}"
        )
    if unexpected:
        raise InputError(
            f"{weights.folder}: {len(unexpected)} tensors have no place in this model: {unexpected[:5]}; "
            "the weights are of another size or architecture"
        )
    return names


def _example(names: list[str]) -> str:
    return f" (it has, for instance, {names[:3]})" if names else ""


def _check_header(weights: SafetensorsFolder, name: str, tensor: DiskTensor, disk_dtype: str | None) -> None:
    shape, dtype = weights.shape(name), weights.dtype(name)
    path = ", ".join(path for path, _ in tensor.targets)
    if shape != tensor.shape:
        transposed = shape == tensor.shape[::-1]
        cause = "it is the transpose, as JAX and TensorFlow store it" if transposed else "another size of model"
        raise InputError(
            f"{weights.file(name)}: {name} has shape {list(shape)}, expected {list(tensor.shape)} for {path}; {cause}"
        )
    expected = disk_dtype or tensor.dtype.name
    if dtype != expected:
        raise InputError(
            f"{weights.file(name)}: {name} is {dtype}, expected {expected} for {path}; nothing is cast silently"
        )


def _read(
    weights: SafetensorsFolder,
    names: Mapping[str, str],
    tensors: list[DiskTensor],
    wanted: Mapping[str, jax.ShapeDtypeStruct],
    start: str,
    shardings: Mapping[str, jax.sharding.Sharding],
) -> Parameters:
    """The tensors of a rule follow one another, so that few host buffers are open at a time."""
    remaining = dict.fromkeys(wanted, 0)
    for tensor in tensors:
        for path, _ in tensor.targets:
            remaining[path] += 1
    buffers: dict[str, np.ndarray] = {}
    parameters: Parameters = {}
    for tensor in tensors:
        name = names[tensor.name]
        array = weights.read(name)
        if not np.isfinite(array).all():
            count = int(np.sum(~np.isfinite(array)))
            raise InputError(f"{weights.file(name)}: {name} holds {count} values that are not finite; it is damaged")
        for (path, layer), share in zip(tensor.targets, tensor.to_ours(array), strict=True):
            struct = wanted[path]
            buffer = buffers.setdefault(path, np.empty(struct.shape, struct.dtype))
            buffer[... if layer is None else layer] = share
            remaining[path] -= 1
            if not remaining[path]:
                whole, sharding = buffers.pop(path), shardings.get(start + path)
                parameters[start + path] = jnp.array(whole) if sharding is None else jax.device_put(whole, sharding)
    assert parameters.keys() == {start + path for path in wanted}
    return parameters
