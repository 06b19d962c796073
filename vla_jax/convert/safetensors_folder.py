"""A folder of safetensors, one file or shards with an index, checked whole before any weight is read."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vla_jax.tensor_file import TensorFile
from vla_jax.types import InputError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class SafetensorsFolder:
    """Memory-mapped: `read` brings in nothing that is not looked at."""

    def __init__(self, folder: Path):
        """Raises InputError: no weights, a missing, truncated or foreign file, or an index that disagrees."""
        self.folder = folder
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; weights are read from a local Hugging Face folder")
        self._files: dict[str, TensorFile] = {}
        """By name of the tensor."""
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
        return self._files[name].path

    def shape(self, name: str) -> tuple[int, ...]:
        return self._files[name].shape(name)

    def dtype(self, name: str) -> str:
        return self._files[name].dtype(name)

    def read(self, name: str) -> np.ndarray:
        """A read-only view of the file."""
        return self._files[name].read(name)

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
            if name not in self._files or self.file(name).name != shard:
                raise InputError(f"{self.folder / shard}: {name} is not in it, though {index.name} says so")
        if extra := sorted(self._files.keys() - weight_map.keys()):
            raise InputError(f"{self.file(extra[0])}: holds {extra[:5]}, which {index.name} does not list")

    def _open(self, path: Path) -> None:
        opened = TensorFile(path)
        for name in opened.names():
            if name in self._files:
                raise InputError(f"{path}: {name} is also in {self.file(name).name}; one of them is stale")
            self._files[name] = opened


def read_json(path: Path) -> dict[str, Any]:
    """An object of a Hugging Face folder; the advice is to fetch it, which fits no other JSON of ours."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; a Hugging Face folder with {path.name} is expected")
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable JSON ({error}); fetch it again") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: found {type(tree).__name__}, expected an object; fetch it again")
    return tree


@contextlib.contextmanager
def interpreting(file: Path) -> Iterator[None]:
    """Within it a config.json is made sense of: what goes wrong is said of `file`, and nothing is a traceback.

    Its values may be of any type, and a model is built from them.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{file}: {str(error).removeprefix('config.json: ')}") from error
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{file}: describes no model that can be built ({cause}); fetch it again") from error
