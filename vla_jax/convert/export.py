"""What an exported folder is made of, and what writes one: a module of `targets`, found by its name.

A target writes a folder whose `config.json` names, under `auto_map`, the folder's own model class; `parity` loads it
and asks it for `stages` and `predict_action`.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from vla_jax.convert import targets
from vla_jax.types import DataRequirements

FACTORS = ("lora_a", "lora_b")
"""Names of an adapter's parameters."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapters:
    """What a run with LoRA trained, before it is merged."""

    rank: int
    alpha: float
    parameters: Mapping[str, np.ndarray]
    """All of the policy's, by path; `lora_a` and `lora_b` stand beside the `kernel` that they adapt."""
    trained: frozenset[str]
    """Paths that trained in full."""

    def base(self) -> dict[str, np.ndarray]:
        return {path: array for path, array in self.parameters.items() if path.rpartition("/")[2] not in FACTORS}

    @staticmethod
    def factor(kernel: str, name: str) -> str:
        """The path of the adapter's `lora_a` or `lora_b`, by its kernel's."""
        layer, _, leaf = kernel.rpartition("/")
        return f"{layer}/{name}" if leaf == "kernel" else ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
    policy: str
    """The policy's file in `vla_jax/policies`."""
    settings: dict[str, Any]
    """Its configuration as JSON."""
    requirements: DataRequirements
    parameters: Mapping[str, np.ndarray]
    """All of them, by path."""
    parts: Mapping[str, str]
    """Prefix -> family, of the parts that have a table of their own."""
    frozen: frozenset[str]
    """Paths that were not trained."""
    statistics: dict[str, Any]
    save_tokenizer: Callable[[Path], None]
    source: dict[str, str]
    """For the model card: where the weights come from, by name."""
    prompt: dict[str, Any] | None = None
    """`template` and `last_token`; None: the instruction alone is read."""
    adapters: Adapters | None = None
    """Of a run with LoRA, whose `parameters` above are merged."""

    @property
    def class_name(self) -> str:
        return "".join(word.capitalize() for word in self.policy.split("_"))


class Target(Protocol):
    """What a module of `targets` has."""

    def write(self, folder: Path, export: Export) -> None:
        """Everything but what needs the comparison."""

    def write_report(self, folder: Path, export: Export, parity: dict[str, Any]) -> None: ...


def target_names() -> list[str]:
    return sorted(info.name for info in pkgutil.iter_modules(targets.__path__))


def find_target(name: str) -> Target:
    return cast(Target, importlib.import_module(f"{targets.__name__}.{name}"))
