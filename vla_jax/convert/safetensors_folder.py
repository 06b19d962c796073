"""A folder of safetensors, one file or shards with an index, checked whole before any weight is read."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from vla_jax.types import InputError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Safetensors' names -> numpy's; others are named in lower case as the file has them."""


class SafetensorsFolder:
    """Memory-mapped: `read` brings in one tensor."""

    def __init__(self, folder: Path):
        """Raises InputError: no weights, a missing, truncated or foreign file, or an index that disagrees."""
        self.folder = folder
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; weights are read from a local Hugging Face folder")
        self._handles: dict[str, Any] = {}
        self._files: dict[str, Path] = {}
        index = folder / INDEX
        if index.is_file():
            self._open_shards(index)
        elif (folder / SINGLE).is_file():
            self._open(folder / SINGLE)
        else:
            present = sorted(path.name for path in folder.iterdir())[:8]
            raise InputError(
                f"{folder}: neither {SINGLE} nor {INDEX}; there are {present}. Only safetensors are read: "
                "pickled weights (pytorch_model.bin) must be converted first"
            )

    def names(self) -> list[str]:
        return sorted(self._files)

    def file(self, name: str) -> Path:
        return self._files[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._handles[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        stored = self._handles[name].get_slice(name).get_dtype()
        return DTYPES.get(stored, stored.lower())

    def read(self, name: str) -> np.ndarray:
        return self._handles[name].get_tensor(name)

    def _open_shards(self, index: Path) -> None:
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise InputError(f'{index}: found no "weight_map" of tensors to shards; fetch the folder again')
        shards = sorted(set(weight_map.values()))
        for shard in shards:
            if Path(shard).name != shard:
                raise InputError(f"{index}: names {shard!r}, which lies outside the folder")
        if missing := [shard for shard in shards if not (self.folder / shard).is_file()]:
            raise InputError(f"{index}: names {missing}, missing from {self.folder}; fetch the folder again")
        for shard in shards:
            self._open(self.folder / shard)
        for name, shard in weight_map.items():
            if name not in self._files or self._files[name].name != shard:
                raise InputError(f"{self.folder / shard}: {name} is not in it, though {index.name} says so")
        if extra := sorted(self._files.keys() - weight_map.keys()):
            raise InputError(f"{self._files[extra[0]]}: holds {extra[:5]}, which {index.name} does not list")

    def _open(self, path: Path) -> None:
        try:
            handle = safe_open(path, framework="numpy")
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: {_damage(path)} ({error}); fetch it again") from error
        for name in handle.keys():  # noqa: SIM118 (the handle is no mapping)
            if name in self._files:
                raise InputError(f"{path}: {name} is also in {self._files[name].name}; one of them is stale")
            self._files[name] = path
            self._handles[name] = handle


def read_json(path: Path) -> dict[str, Any]:
    """An object of a Hugging Face folder; the advice is to fetch it, which fits no other JSON of ours."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; a Hugging Face folder with {path.name} is expected")
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not readable JSON ({error}); fetch it again") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: found {type(tree).__name__}, expected an object; fetch it again")
    return tree


def _damage(path: Path) -> str:
    """What is wrong with a file that safetensors refuses."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        if start == b"version ":
            return "a Git LFS pointer, not the weights: run `git lfs pull`"
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if 8 + length > size:
            return f"truncated or no safetensors file: {size} bytes, too few for its header"
        try:
            header = json.loads(stream.read(length))
            data = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"its header is damaged, {size} bytes in all"
    return f"truncated or overlong: {size} bytes found, {8 + length + data} expected"
