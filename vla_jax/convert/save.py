"""Parameters into Hugging Face weights: names of the family's table, safetensors in shards with an index.

Tensors are streamed from where they lie, a block at a time.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

from vla_jax.convert.rules import DiskTensor, disk_tensors, find_family
from vla_jax.convert.safetensors_folder import INDEX, SINGLE
from vla_jax.lazy_tensor import LazyTensor, Piece, of_array
from vla_jax.tensor_file import write_tensor_file
from vla_jax.types import InputError

MAX_SHARD_BYTES = 5 * 10**9
Array = jax.Array | np.ndarray


def lazy_tensors(
    family: str,
    parameters: Mapping[str, Array],
    *,
    prefix: str = "",
    disk_prefix: str = "",
    lacking: Mapping[str, jax.ShapeDtypeStruct] | None = None,
) -> dict[str, LazyTensor]:
    """By name on disk, every parameter under `prefix`.

    Args:
        family: a file of `families/`.
        parameters: by path.
        prefix: as `PretrainedPart.prefix`; empty: `parameters` are the family's own.
        disk_prefix: stands before each name on disk, e.g. `clip.`.
        lacking: what the model has and `parameters` does not, by path without the prefix; it is left out.

    Raises:
        InputError: a parameter that the family does not know, or one that it lacks.
    """
    start = f"{prefix}/" if prefix else ""
    own = {path.removeprefix(start): array for path, array in parameters.items() if path.startswith(start)}
    assert own, f"no parameter lies under {prefix!r}"
    shapes = {path: jax.ShapeDtypeStruct(array.shape, array.dtype) for path, array in own.items()}
    return {
        disk_prefix + tensor.name: _on_disk(tensor, own)
        for tensor in disk_tensors(find_family(family).rules, {**(lacking or {}), **shapes})
        if all(path in own for path, _ in tensor.targets)
    }


def disk_arrays(
    family: str, parameters: Mapping[str, Array], *, prefix: str = "", disk_prefix: str = ""
) -> Iterator[tuple[str, np.ndarray]]:
    """Name on disk and tensor, as of `lazy_tensors`: views where that is possible."""
    for name, tensor in lazy_tensors(family, parameters, prefix=prefix, disk_prefix=disk_prefix).items():
        yield name, tensor.view()


def save(
    folder: Path,
    tensors: Iterable[tuple[str, LazyTensor | np.ndarray]],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    advance: Callable[[int], None] = lambda num_bytes: None,
) -> dict[Path, str]:
    """Writes `model.safetensors`, or shards of at most `max_shard_bytes` with their index.

    A single tensor above the limit has a shard of its own. Args: advance: as of `write_tensor_file`.

    Returns:
        The sha256 of each file of weights.
    """
    shards = _shards(tensors, max_shard_bytes)
    folder.mkdir(parents=True, exist_ok=True)
    if stale := sorted(path.name for path in folder.glob("*.safetensors*")):
        raise InputError(f"{folder}: {stale[:3]} already there; name an empty folder")
    files: dict[str, Path] = {}
    digests: dict[Path, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        digests[folder / name] = write_tensor_file(folder / name, shard, advance=advance)
        files |= dict.fromkeys(shard, folder / name)
    if len(shards) > 1:
        total = sum(tensor.nbytes for shard in shards for tensor in shard.values())
        weight_map = {name: path.name for name, path in sorted(files.items())}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return digests


def _shards(
    tensors: Iterable[tuple[str, LazyTensor | np.ndarray]], max_shard_bytes: int
) -> list[dict[str, LazyTensor]]:
    shards: list[dict[str, LazyTensor]] = [{}]
    size = 0
    for name, given in tensors:
        tensor = given if isinstance(given, LazyTensor) else of_array(given)
        assert all(name not in shard for shard in shards), f"{name} comes twice"
        if shards[-1] and size + tensor.nbytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards


def _on_disk(tensor: DiskTensor, own: Mapping[str, Array]) -> LazyTensor:
    """Each target's share is a piece of its own: to put them together here would take memory."""
    if tensor.unit_axes:  # it has one row, all of it
        return LazyTensor(tensor.shape, np.dtype(tensor.dtype), (Piece(1, functools.partial(_disk_view, tensor, own)),))
    pieces = []
    for shape, target in zip(tensor.shapes, tensor.targets, strict=True):
        share = dataclasses.replace(tensor, shapes=(shape,), targets=(target,))
        pieces.append(Piece(shape[0] if shape else 1, functools.partial(_disk_view, share, own)))
    return LazyTensor(tensor.shape, np.dtype(tensor.dtype), tuple(pieces))


def _disk_view(tensor: DiskTensor, own: Mapping[str, Array]) -> np.ndarray:
    shares = [own[path] if layer is None else own[path][layer] for path, layer in tensor.targets]
    return tensor.to_disk([np.asarray(share) for share in shares])
