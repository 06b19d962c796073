"""Parameters into Hugging Face weights: names of the family's table, safetensors in shards with an index."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from vla_jax.convert.rules import disk_tensors, find_family
from vla_jax.convert.safetensors_folder import INDEX, SINGLE
from vla_jax.types import InputError

MAX_SHARD_BYTES = 5 * 10**9


def disk_arrays(
    family: str, parameters: Mapping[str, jax.Array | np.ndarray], *, prefix: str = "", disk_prefix: str = ""
) -> Iterator[tuple[str, np.ndarray]]:
    """Name on disk and tensor, one at a time, of every parameter under `prefix`.

    Args:
        family: a file of `families/`.
        parameters: by path.
        prefix: as `PretrainedPart.prefix`; empty: `parameters` are the family's own.
        disk_prefix: stands before each name on disk, e.g. `clip.`.

    Raises:
        InputError: a parameter that the family does not know, or one that it lacks.
    """
    start = f"{prefix}/" if prefix else ""
    own = {path.removeprefix(start): array for path, array in parameters.items() if path.startswith(start)}
    assert own, f"no parameter lies under {prefix!r}"
    shapes = {path: jax.ShapeDtypeStruct(array.shape, array.dtype) for path, array in own.items()}
    held: dict[str, np.ndarray] = {}
    for tensor in disk_tensors(find_family(family).rules, shapes):
        paths = [path for path, _ in tensor.targets]
        if held.keys() != set(paths):  # the layers of a stacked parameter follow one another
            held = {path: np.asarray(own[path]) for path in paths}
        shares = [held[path] if layer is None else held[path][layer] for path, layer in tensor.targets]
        yield disk_prefix + tensor.name, tensor.to_disk(shares)


def save(
    folder: Path, tensors: Iterable[tuple[str, np.ndarray]], *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> dict[str, Path]:
    """Writes `model.safetensors`, or shards of at most `max_shard_bytes` with their index.

    One shard is in memory at a time. A single tensor above the limit has a shard of its own.

    Returns:
        The file that each tensor lies in.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if stale := sorted(path.name for path in folder.glob("*.safetensors*")):
        raise InputError(f"{folder}: {stale[:3]} already there; name an empty folder")
    shards: list[list[str]] = []
    shard: dict[str, np.ndarray] = {}
    size = total = 0
    for name, tensor in tensors:
        assert all(name not in names for names in (shard, *shards)), f"{name} comes twice"
        if shard and size + tensor.nbytes > max_shard_bytes:
            shards.append(_write(folder, len(shards), shard))
            shard, size = {}, 0
        shard[name] = np.array(tensor, order="C")  # save_file writes a transposed view's memory as it lies
        size += tensor.nbytes
        total += tensor.nbytes
    shards.append(_write(folder, len(shards), shard))
    return _name_shards(folder, shards, total)


def _write(folder: Path, number: int, shard: dict[str, np.ndarray]) -> list[str]:
    save_file(shard, _unnamed(folder, number), metadata={"format": "pt"})
    return list(shard)


def _unnamed(folder: Path, number: int) -> Path:
    return folder / f"shard-{number}.safetensors.tmp"


def _name_shards(folder: Path, shards: list[list[str]], total: int) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for number, names in enumerate(shards):
        name = SINGLE if len(shards) == 1 else f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        path = _unnamed(folder, number).rename(folder / name)
        path.chmod(0o644)  # save_file leaves it to its owner alone
        files |= dict.fromkeys(names, path)
    if len(shards) > 1:
        weight_map = {name: path.name for name, path in sorted(files.items())}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return files
