"""Datasets and action spaces by name, found by listing their folders; digests of the code behind them."""

import ast
import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np

from data_pipelines import action_spaces, datasets
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec
from vla_jax.types import ActionSpace, InputError


@dataclasses.dataclass(frozen=True)
class Dataset:
    spec: DatasetSpec
    standardize: Callable[[Trajectory], Trajectory]
    """Raw numbers of one episode, by the keys of `spec.numbers`, to the columns of `schema.py`."""
    sources: dict[str, str]
    """Of the dataset's file and every file of this package that it imports, as `source_digests` gives them."""

    @property
    def source_digest(self) -> str:
        return _digest_of(self.sources)


def find_dataset(name: str, standardization: Literal["correct", "upstream"] = "correct") -> Dataset:
    """By the name of a file of `datasets/`, or by an alias that one of them lists.

    With `upstream`, that function of the file where there is one: elsewhere published code does the same as ours.
    """
    module = _file_of_alias(name) or _find(datasets, name, "dataset", "data.mixture")
    spec = next(spec for spec in specs(module) if spec.name == name)
    standardize = module.standardize
    if standardization == "upstream":
        standardize = getattr(module, "upstream", standardize)
    return Dataset(spec, standardize, source_digests(module.__name__))


def specs(module: ModuleType) -> tuple[DatasetSpec, ...]:
    """Of a file of `datasets/`: its own and its aliases'."""
    return (module.SPEC, *getattr(module, "ALIASES", ()))


def dataset_files() -> dict[str, ModuleType]:
    """Every file of `datasets/`, by its name."""
    names = sorted(module.name for module in pkgutil.iter_modules(datasets.__path__))
    return {name: importlib.import_module(f"{datasets.__name__}.{name}") for name in names}


def refuse_unknown_slots(key: str, slots: Iterable[str]) -> None:
    """InputError where no dataset has such a camera: what is done to it would be done to none.

    A slot that only other datasets or policies have is fine. Args: key: of the configuration, for the error.
    """
    known = {slot for file in dataset_files().values() for spec in specs(file) for slot in spec.cameras}
    if unknown := sorted(set(slots) - known):
        raise InputError(f"{key}: no dataset has a camera {', '.join(map(repr, unknown))}; there are {sorted(known)}")


def _file_of_alias(name: str) -> ModuleType | None:
    if _is_module(f"{datasets.__name__}.{name}"):
        return None
    files = dataset_files().values()
    return next((file for file in files if name in [spec.name for spec in specs(file)]), None)


def find_action_space(form: str) -> ModuleType:
    return _find(action_spaces, form, "action space", "action_space.form")


def commanded(dataset: str, space: ActionSpace, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """bool[a]: the dimensions of the action that the dataset commands; InputError where its columns do not fit."""
    available = getattr(find_action_space(space.form), "available", None)
    try:
        return np.ones(space.action_width, bool) if available is None else available(columns)
    except InputError as error:
        raise InputError(f"dataset {dataset}: {error}. Leave it out of data.mixture") from error


def source_digest(module: str) -> str:
    """sha256 over a module's source and, transitively, the sources that it imports from this package."""
    return _digest_of(source_digests(module))


def source_digests(module: str) -> dict[str, str]:
    """sha256 of each of these sources, by its path, e.g. `data_pipelines/conventions/pose.py`."""
    sources: dict[str, str] = {}
    _gather_sources(module, sources)
    return {f"{name.replace('.', '/')}.py": hashlib.sha256(sources[name].encode()).hexdigest() for name in sources}


def _digest_of(sources: dict[str, str]) -> str:
    listing = "\n".join(f"{path} {digest}" for path, digest in sorted(sources.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def _find(package: ModuleType, name: str, kind: str, key: str) -> ModuleType:
    known = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    if name not in known:
        raise InputError(f"{key}: no {kind} {name!r}; there are {known}. Add a file to {package.__name__} for another")
    return importlib.import_module(f"{package.__name__}.{name}")


@functools.cache
def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _gather_sources(module: str, sources: dict[str, str]) -> None:
    spec = importlib.util.find_spec(module)
    if module in sources or spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return
    sources[module] = Path(spec.origin).read_text()
    for name in _imports(sources[module]):
        if _is_module(name):
            _gather_sources(name, sources)


@functools.cache
def _imports(source: str) -> tuple[str, ...]:
    """What a source imports from this package, and names in it that may be modules."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(dict.fromkeys(name for name in names if name.startswith("data_pipelines.")))
