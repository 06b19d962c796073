"""The rule table of a weight family: names on disk <-> parameter paths, one table for both directions.

A name on disk is what the file says, which is not always what a loaded PyTorch model calls it. `{layer}` in a
name stands for the index of a block; our parameter then has a leading `layers` axis. Several paths in a rule
mean that the disk tensor is their concatenation over its leading axis (fused q, k, v). Any other placeholder
stands in name and paths alike and takes the values that the model's parameters have there (`{slot}`: cameras).
"""

import collections
import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from vla_jax.convert import families
from vla_jax.types import InputError

Layout = Literal["copy", "transpose", "conv", "conv_transpose", "conv1d", "conv1d_transpose", "conv3d"]
AXES: dict[Layout, tuple[int, ...] | None] = {
    "copy": None,
    "transpose": (1, 0),  # linear: [out, in] <-> [in, out]
    "conv": (2, 3, 1, 0),  # convolution: [out, in, y, x] <-> [y, x, in, out]
    "conv_transpose": (2, 3, 0, 1),  # transposed convolution: [in, out, y, x] <-> [y, x, in, out]
    "conv1d": (2, 1, 0),  # [out, in, x] <-> [x, in, out]
    "conv1d_transpose": (2, 0, 1),  # [in, out, x] <-> [x, in, out]
    "conv3d": (2, 3, 4, 1, 0),  # [out, in, t, y, x] <-> [t, y, x, in, out]
}
"""Which disk axis each of our axes is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    disk: str
    paths: tuple[str, ...]
    layout: Layout = "copy"
    part: str = ""
    """A model has all parameters of a part or none of them; a file's tensors of an absent part are left alone."""
    unit_axes: int = 0
    """Leading axes of length one that only the disk tensor has (`cls_token` [1, 1, d])."""
    layers: Callable[[Mapping[str, jax.ShapeDtypeStruct]], Sequence[int]] | None = None
    """From the model's shapes: which `{layer}` on disk each of our stacked layers is; None: they count alike."""
    holds: Callable[[Mapping[str, jax.ShapeDtypeStruct]], bool] | None = None
    """From the model's shapes: whether its files have this tensor; None: always. For parameters that models of a family
    store in different ways."""

    def matches(self, name: str) -> bool:
        return re.fullmatch(re.escape(self.disk).replace(r"\{layer\}", r"\d+"), name) is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """Each file of `families/` has one, named FAMILY; the file's name is the family's."""

    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()
    """Regular expressions of names on disk that hold no weights."""
    canonical_name: Callable[[str, Mapping[str, Any]], str] = lambda name, config: name
    """(name in the file, config.json) -> name in the rules, where releases differ in prefixes."""
    settings: Callable[[Mapping[str, Any]], dict[str, Any]] = dict
    """config.json -> what it says once defaults are filled in, to be compared with the model's settings."""
    tied: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Name on disk -> the tensor that it repeats. A file may hold it where it has the same bits; none is written. Where
    the model has a parameter of its own for the name, it is a tensor like any other."""

    def leaves_alone(self, name: str, parts: set[str]) -> bool:
        """Whether a tensor that a model of these parts has no place for may lie in its file."""
        ignored = any(re.fullmatch(pattern, name) for pattern in self.ignored)
        return ignored or any(rule.part not in parts and rule.matches(name) for rule in self.rules)


@dataclasses.dataclass(frozen=True)
class DiskTensor:
    """One tensor on disk, and the parameters (or one layer of them) that it becomes."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    """On disk, of each target's share."""
    dtype: np.dtype
    layout: Layout
    targets: tuple[tuple[str, int | None], ...]
    """Parameter path, and the layer where the parameter is stacked."""
    unit_axes: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        first = self.shapes[0]
        joined = first if len(self.shapes) == 1 else (sum(shape[0] for shape in self.shapes), *first[1:])
        return (1,) * self.unit_axes + joined

    def to_ours(self, array: np.ndarray) -> list[np.ndarray]:
        """One array a target, in our layout."""
        shares = [array.reshape(array.shape[self.unit_axes :])]
        if len(self.shapes) > 1:
            shares = np.split(shares[0], np.cumsum([shape[0] for shape in self.shapes[:-1]]))
        return [np.transpose(share, AXES[self.layout]) if AXES[self.layout] else share for share in shares]

    def to_disk(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """The inverse of `to_ours`."""
        axes = AXES[self.layout]
        shares = [np.transpose(array, np.argsort(axes)) if axes else array for array in arrays]
        joined = shares[0] if len(shares) == 1 else np.concatenate(shares)
        return joined.reshape((1,) * self.unit_axes + joined.shape)


def family_names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(families.__path__))


def find_family(name: str) -> Family:
    known = family_names()
    if name not in known:
        raise InputError(f"weight family {name!r} is not known; there are {known} (vla_jax/convert/families)")
    return importlib.import_module(f"{families.__name__}.{name}").FAMILY


def disk_tensors(rules: Sequence[Rule], shapes: Mapping[str, jax.ShapeDtypeStruct]) -> list[DiskTensor]:
    """Every tensor that a file with exactly these parameters has, rule by rule and layer by layer.

    Raises InputError where a parameter has no rule, or a part of the family lacks a parameter.
    """
    rules = _fill([rule for rule in rules if rule.holds is None or rule.holds(shapes)], shapes)
    owners = collections.Counter(path for rule in rules for path in rule.paths)
    assert not [path for path, count in owners.items() if count > 1], "a path stands in two rules"
    if unmapped := sorted(shapes.keys() - owners.keys()):
        raise InputError(f"the weight family has no rule for the model's {unmapped[:5]} ({len(unmapped)} parameters)")
    present = present_parts(rules, shapes)
    wanted = [rule for rule in rules if rule.part in present]
    if lacking := [path for rule in wanted for path in rule.paths if path not in shapes]:
        raise InputError(f"the model lacks {lacking[:5]} of the weight family ({len(lacking)} parameters)")
    return [tensor for rule in wanted for tensor in _expand(rule, shapes)]


def present_parts(rules: Sequence[Rule], shapes: Mapping[str, Any]) -> set[str]:
    return {rule.part for rule in rules if any(path in shapes for path in rule.paths)}


def _fill(rules: Sequence[Rule], shapes: Mapping[str, Any]) -> list[Rule]:
    """A rule with a placeholder becomes one rule a value; what one rule finds holds for all with that placeholder."""
    values: dict[str, set[str]] = collections.defaultdict(set)
    for path in (path for rule in rules for path in rule.paths if "{" in path):
        pattern = re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path)))
        for match in filter(None, map(pattern.fullmatch, shapes)):
            for placeholder, value in match.groupdict().items():
                values[f"{{{placeholder}}}"].add(value)
    filled = []
    for rule in rules:
        mark = re.search(r"\{\w+\}", rule.paths[0])
        if mark is None:
            filled.append(rule)
            continue
        for value in sorted(values[mark[0]]):
            paths = tuple(path.replace(mark[0], value) for path in rule.paths)
            filled.append(dataclasses.replace(rule, disk=rule.disk.replace(mark[0], value), paths=paths))
    return filled


def _expand(rule: Rule, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> list[DiskTensor]:
    structs = [shapes[path] for path in rule.paths]
    stacked = "{layer}" in rule.disk
    layers: Sequence[int | None] = range(structs[0].shape[0]) if stacked else [None]
    names = rule.layers(shapes) if stacked and rule.layers else layers
    assert len(names) == len(layers), f"{rule.disk}: {len(names)} layers on disk, {len(layers)} here"
    ours = [struct.shape[1:] if stacked else struct.shape for struct in structs]
    axes = AXES[rule.layout]
    on_disk = tuple(tuple(shape[i] for i in np.argsort(axes)) if axes else tuple(shape) for shape in ours)
    return [
        DiskTensor(
            name=rule.disk.replace("{layer}", str(name)),
            shapes=on_disk,
            dtype=np.dtype(structs[0].dtype),
            layout=rule.layout,
            targets=tuple((path, layer) for path in rule.paths),
            unit_axes=rule.unit_axes,
        )
        for layer, name in zip(layers, names, strict=True)
    ]
