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
