"""The parameters that lie in a Hugging Face folder, not yet read: every check that headers suffice for.

A parameter is a lazy tensor whose pieces are views of the mapped files in our layout, a layer each where it is
stacked. What is copied out of one is refused where it holds a value that is not finite.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vla_jax.convert.rules import DiskTensor, Family, disk_tensors, present_parts
from vla_jax.convert.safetensors_folder import SafetensorsFolder
from vla_jax.lazy_tensor import LazyTensor, Piece, blocks, count_non_finite
from vla_jax.types import InputError

FLOATING = ("float32", "bfloat16", "float16")


def disk_parameters(
    weights: SafetensorsFolder,
    config: Mapping[str, Any],
    family: Family,
    wanted: Mapping[str, jax.ShapeDtypeStruct],
    *,
    dtypes: Mapping[str, str] | None = None,
    dispensable: Collection[str] = (),
) -> dict[str, LazyTensor]:
    """By path, in the dtype that the file has.

    Args:
        weights: the folder's.
        config: the folder's config.json.
        family: whose table says what is what.
        wanted: the model's parameters, by path in the family's table.
        dtypes: what the file must hold for each; None: any of FLOATING, one for all layers of a parameter.
        dispensable: paths that may be absent, and are then absent here.
    """
    tensors = disk_tensors(family.rules, wanted)
    names = _match_names(weights, config, family, tensors, wanted)
    tensors = _without_absent(weights, tensors, names, dispensable)
    for tensor in tensors:
        _check_header(weights, names.stored[tensor.name], tensor, dtypes)
    _check_copies(weights, names)
    found: dict[str, list[_Share]] = collections.defaultdict(list)
    for tensor in tensors:
        for share in _shares(weights, names.stored[tensor.name], tensor):
            found[share.path].append(share)
    return {path: _parameter(weights, wanted[path].shape, shares) for path, shares in found.items()}


def check_settings(file: Path, expected: Mapping[str, Any], found: Mapping[str, Any], where: str = "") -> None:
    """Args: expected: the model's; found: the file's, in the same words, and maybe more of them."""
    for key, value in expected.items():
        name = f"{where}{key}"
        if isinstance(value, Mapping) and isinstance(found.get(key), Mapping):
            check_settings(file, value, found[key], f"{name}.")
        elif key not in found:
            raise InputError(f"{file}: has no {name}, expected {value!r}; these weights are of another kind of model")
        elif found[key] != value:
            raise InputError(
                f"{file}: {name} is {found[key]!r}, this model has {value!r}; choose the preset of these weights"
            )


@dataclasses.dataclass(frozen=True)
class _Names:
    stored: dict[str, str]
    """Name in the rules -> name in the file, of every tensor that is there."""
    copies: dict[str, str]
    """Name in the file -> name in the file of what it repeats."""
    unexpected: list[str]


def _match_names(
    weights: SafetensorsFolder,
    config: Mapping[str, Any],
    family: Family,
    tensors: list[DiskTensor],
    wanted: Mapping[str, Any],
) -> _Names:
    expected = {tensor.name for tensor in tensors}
    parts = present_parts(family.rules, wanted)
    every: dict[str, str] = {}
    unexpected = []
    for stored in weights.names():
        name = family.canonical_name(stored, config)
        if name in every:
            raise InputError(f"{weights.folder}: {stored} and {every[name]} are both {name}; one of them is stale")
        every[name] = stored
        if not (name in expected or name in family.tied or family.leaves_alone(name, parts)):
            unexpected.append(stored)
    found = {name: every[name] for name in every.keys() & expected}
    tied = {name: original for name, original in family.tied.items() if name in every and name not in expected}
    copies = {every[name]: found[original] for name, original in tied.items() if original in found}
    return _Names(found, copies, unexpected)


def _without_absent(
    weights: SafetensorsFolder, tensors: list[DiskTensor], names: _Names, dispensable: Collection[str]
) -> list[DiskTensor]:
    """The tensors that are there. A parameter may be absent as a whole only."""
    present = {path for tensor in tensors if tensor.name in names.stored for path, _ in tensor.targets}
    absent = set(dispensable) - present
    missing = sorted(
        tensor.name
        for tensor in tensors
        if tensor.name not in names.stored and not {path for path, _ in tensor.targets} <= absent
    )
    if missing:
        example = f" (it has, for instance, {names.unexpected[:3]})" if names.unexpected else ""
        raise InputError(
            f"{weights.folder}: {len(missing)} of {len(tensors)} tensors are missing: {missing[:5]}; the download is "
            f"incomplete or of another architecture{example}"
        )
    if names.unexpected:
        raise InputError(
            f"{weights.folder}: {len(names.unexpected)} tensors have no place in this model: {names.unexpected[:5]} "
            f"(in {weights.file(names.unexpected[0]).name}); the weights are of another size or architecture"
        )
    return [tensor for tensor in tensors if tensor.name in names.stored]


def _check_header(weights: SafetensorsFolder, name: str, tensor: DiskTensor, dtypes: Mapping[str, str] | None) -> None:
    shape, dtype = weights.shape(name), weights.dtype(name)
    path = ", ".join(path for path, _ in tensor.targets)
    if shape != tensor.shape:
        transposed = shape == tensor.shape[::-1]
        cause = "it is the transpose, as JAX and TensorFlow store it" if transposed else "another size of model"
        raise InputError(
            f"{weights.file(name)}: {name} has shape {list(shape)}, expected {list(tensor.shape)} for {path}; {cause}"
        )
    expected = FLOATING if dtypes is None else (dtypes[tensor.targets[0][0]],)
    if dtype not in expected:
        raise InputError(
            f"{weights.file(name)}: {name} is {dtype}, expected {' or '.join(expected)} for {path}; nothing is cast "
            "silently. `python -m vla_jax import --dtype` makes a folder of another floating dtype; quantised weights "
            "are not read"
        )


def _check_copies(weights: SafetensorsFolder, names: _Names) -> None:
    """A tied tensor may lie in the file a second time, and must then say the same."""
    for copy, original in names.copies.items():
        ours, theirs = ((weights.shape(name), weights.dtype(name)) for name in (original, copy))
        if ours != theirs or not same_bits(weights.read(original), weights.read(copy)):
            raise InputError(
                f"{weights.file(copy)}: {copy} {list(theirs[0])} {theirs[1]} differs from {original} {list(ours[0])} "
                f"{ours[1]}, to which this model ties it; config.json should perhaps say tie_word_embeddings: false"
            )


def same_bits(ours: np.ndarray, theirs: np.ndarray) -> bool:
    integers = np.dtype(f"u{ours.dtype.itemsize}")
    ours, theirs = ours.view(integers), theirs.view(integers)
    return all(np.array_equal(ours[part], theirs[part]) for part in blocks(ours.shape, integers.itemsize))


class _Share(NamedTuple):
    """What a tensor of the file holds of a parameter."""

    path: str
    layer: int | None
    name: str
    piece: Piece


def _shares(weights: SafetensorsFolder, name: str, tensor: DiskTensor) -> Iterator[_Share]:
    array, check = weights.read(name), _refuse_non_finite(weights, name)
    for (path, layer), share in zip(tensor.targets, tensor.to_ours(array), strict=True):
        ours = share if layer is None else share[None]
        rows = ours.shape[0] if ours.ndim else 1
        yield _Share(path, layer, name, Piece(rows, functools.partial(np.asarray, ours), check))


def _refuse_non_finite(weights: SafetensorsFolder, name: str) -> Callable[[np.ndarray], None]:
    def check(copied: np.ndarray) -> None:
        if not count_non_finite(copied):
            return
        if count := count_non_finite(weights.read(name)):
            raise InputError(f"{weights.file(name)}: {name} holds {count} values that are not finite; it is damaged")
        raise InputError(f"{weights.file(name)}: {name} holds values beyond {copied.dtype}; choose a wider dtype")

    return check


def _parameter(weights: SafetensorsFolder, shape: tuple[int, ...], shares: list[_Share]) -> LazyTensor:
    shares = sorted(shares, key=lambda share: share.layer or 0)
    names = {weights.dtype(share.name): share.name for share in shares}
    if len(names) > 1:
        raise InputError(
            f"{weights.folder}: the layers of {shares[0].path} are of several dtypes, e.g. {names}; one is expected"
        )
    return LazyTensor(tuple(shape), np.dtype(next(iter(names))), tuple(share.piece for share in shares))
