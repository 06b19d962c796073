"""A PEFT adapter, and beside it the model that it adapts.

    FOLDER/             as `--to hf` writes it, without the adapters
    FOLDER/adapter/     adapter_config.json, adapter_model.safetensors: `PeftModel.from_pretrained(model, THIS)`

Where several of our kernels are one tensor on disk (fused q, k, v), the torch layer's adapter is theirs side by side: A
above A, and B on the diagonal, so its rank is the sum of theirs and alpha / rank stays. What trained in full goes in as
`modules_to_save`.

Axes: i in, o out, r rank. PEFT's lora_A is [r, i], lora_B [o, r]: the transposes of ours.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vla_jax.convert.export import Adapters, Export
from vla_jax.convert.rules import DiskTensor, disk_tensors, find_family
from vla_jax.convert.targets import hf
from vla_jax.lazy_tensor import of_array
from vla_jax.tensor_file import write_tensor_file
from vla_jax.types import InputError

ADAPTER = "adapter"
PREFIX = "base_model.model."
INSTEAD = "; `--to hf` exports the merged model"


def write(folder: Path, export: Export) -> None:
    if export.adapters is None:
        raise InputError(f"--to peft: {export.policy} was trained without adapters (lora){INSTEAD}")
    base = export.adapters.base()
    hf.write(folder, dataclasses.replace(export, parameters=base))
    write_adapter(folder / ADAPTER, _disk_tensors(export, base), export.adapters)


def write_report(folder: Path, export: Export, parity: dict[str, Any]) -> None:
    hf.write_report(folder, export, parity, adapter=ADAPTER)


def write_adapter(folder: Path, disk: Sequence[DiskTensor], adapters: Adapters) -> None:
    """Args: disk: every tensor of the torch model, by its name there, and what it is of `adapters.parameters`.

    Raises:
        InputError: what no PEFT adapter can say.
    """
    adapted = [tensor for tensor in disk if _adapted(tensor, adapters)]
    for tensor in adapted:
        if tensor.layout != "transpose" or not tensor.name.endswith(".weight"):
            raise InputError(f"--to peft: {tensor.name} is adapted, but is no linear layer's weight in torch{INSTEAD}")
    saved = _saved_modules(disk, adapted, adapters)
    tensors = {name: array for tensor in adapted for name, array in _low_rank(tensor, adapters)}
    for tensor in disk:
        if _within(tensor.name, saved):
            tensors[PREFIX + tensor.name] = tensor.to_disk([_array(adapters, target) for target in tensor.targets])
    folder.mkdir()
    write_tensor_file(
        folder / "adapter_model.safetensors",
        {name: of_array(np.array(array, order="C")) for name, array in tensors.items()},
    )
    config = _config(adapted, saved, adapters)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _disk_tensors(export: Export, parameters: Mapping[str, np.ndarray]) -> list[DiskTensor]:
    """As `hf.tensors` names them."""
    own = {path: jax.ShapeDtypeStruct(array.shape, array.dtype) for path, array in parameters.items()}
    found = []
    for prefix, family in export.parts.items():
        part = {path.removeprefix(f"{prefix}/"): own.pop(path) for path in parameters if path.startswith(f"{prefix}/")}
        for tensor in disk_tensors(find_family(family).rules, part):
            targets = tuple((f"{prefix}/{path}", layer) for path, layer in tensor.targets)
            found.append(dataclasses.replace(tensor, name=f"{prefix}.{tensor.name}", targets=targets))
    return found + disk_tensors(find_family(export.policy).rules, own)


def _adapted(tensor: DiskTensor, adapters: Adapters) -> list[bool]:
    """Of each share, whether it has an adapter; empty where none has."""
    flags = [adapters.factor(path, "lora_a") in adapters.parameters for path, _ in tensor.targets]
    return flags if any(flags) else []


def _low_rank(tensor: DiskTensor, adapters: Adapters) -> Iterator[tuple[str, np.ndarray]]:
    shares = [share for share, has in enumerate(_adapted(tensor, adapters)) if has]
    rank, sizes = adapters.rank, [shape[0] for shape in tensor.shapes]
    a = np.zeros((rank * len(shares), tensor.shape[1]), np.float32)
    b = np.zeros((sum(sizes), rank * len(shares)), np.float32)
    for number, share in enumerate(shares):
        path, layer = tensor.targets[share]
        rows, columns = slice(sum(sizes[:share]), sum(sizes[: share + 1])), slice(number * rank, (number + 1) * rank)
        a[columns] = _array(adapters, (adapters.factor(path, "lora_a"), layer)).T
        b[rows, columns] = _array(adapters, (adapters.factor(path, "lora_b"), layer)).T
    yield f"{PREFIX}{_module(tensor)}.lora_A.weight", a
    yield f"{PREFIX}{_module(tensor)}.lora_B.weight", b


def _saved_modules(disk: Sequence[DiskTensor], adapted: Sequence[DiskTensor], adapters: Adapters) -> list[str]:
    """The smallest torch modules that hold what trained in full."""
    owners = {_module(tensor) for tensor in disk if any(path in adapters.trained for path, _ in tensor.targets)}
    if "" in owners:
        raise InputError(f"--to peft: parameters of the whole model trained, which belong to no module of it{INSTEAD}")
    saved = sorted(owner for owner in owners if not _within(owner, owners - {owner}))
    if both := [tensor.name for tensor in adapted if _within(tensor.name, saved)]:
        raise InputError(f"--to peft: {both[:3]} are adapted inside modules that trained in full, {saved[:3]}{INSTEAD}")
    modules = {".".join(steps[:end]) for steps in (t.name.split(".") for t in disk) for end in range(1, len(steps))}
    for module in saved:  # PEFT goes by how a module's name ends
        if others := sorted(other for other in modules if other.endswith(module) and other != module):
            raise InputError(f"--to peft: {module} trained in full, and PEFT would take {others[:3]} for it{INSTEAD}")
    return saved


def _config(adapted: Sequence[DiskTensor], saved: list[str], adapters: Adapters) -> dict[str, Any]:
    fused = {re.escape(_module(t)): sum(_adapted(t, adapters)) for t in adapted if sum(_adapted(t, adapters)) > 1}
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "r": adapters.rank,
        "lora_alpha": adapters.alpha,
        "rank_pattern": {module: count * adapters.rank for module, count in fused.items()},
        "alpha_pattern": {module: count * adapters.alpha for module, count in fused.items()},
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "target_modules": "|".join(re.escape(_module(tensor)) for tensor in adapted),  # a whole name each, not endings
        "modules_to_save": saved or None,
        "inference_mode": True,
    }


def _module(tensor: DiskTensor) -> str:
    return tensor.name.rpartition(".")[0]


def _within(name: str, modules: Sequence[str] | set[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def _array(adapters: Adapters, target: tuple[str, int | None]) -> np.ndarray:
    path, layer = target
    array = np.asarray(adapters.parameters[path])
    return array if layer is None else array[layer]
