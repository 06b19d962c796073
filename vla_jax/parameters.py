"""A module's parameters as a flat dictionary by path, and back.

Everything outside the models (optimizer, sharding, checkpoints, converters) sees parameters as
`Parameters`: slash-joined path -> array. Stacked blocks are one array with a leading `layers` axis.
"""

import dataclasses
import re

import jax
from flax import nnx

from vla_jax.types import InputError, Parameters


@dataclasses.dataclass(frozen=True)
class Structure:
    """What `merge` needs to rebuild a module: no arrays in it."""

    graphdef: nnx.GraphDef
    variables: dict[tuple, nnx.Variable]
    """Abstract (shape and dtype) variables by path."""

    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        return {"/".join(map(str, path)): variable.get_value() for path, variable in self.variables.items()}

    def logical_axes(self) -> dict[str, tuple[str | None, ...]]:
        """Logical axis names of each parameter; leading axes that a name is missing for are `layers`."""
        return {
            "/".join(map(str, path)): logical_axes(variable.get_metadata(), variable.get_value().ndim)
            for path, variable in self.variables.items()
        }

    def merge(self, parameters: Parameters) -> nnx.Module:
        flat = {path: v.replace(parameters["/".join(map(str, path))]) for path, v in self.variables.items()}
        return nnx.merge(self.graphdef, nnx.from_flat_state(flat))


def logical_axes(metadata: dict, rank: int) -> tuple[str | None, ...]:
    named = tuple(metadata.get("logical_axes") or ())
    missing = rank - len(named)
    if not named:
        return (None,) * rank
    assert missing >= 0, f"{named} names more axes than the parameter's {rank}"
    return ("layers",) * missing + named


def split(module: nnx.Module) -> tuple[Structure, Parameters]:
    graphdef, state = nnx.split(module)
    flat = dict(nnx.to_flat_state(state))
    parameters = {"/".join(map(str, path)): variable.get_value() for path, variable in flat.items()}
    abstract = {path: v.replace(jax.ShapeDtypeStruct(v.shape, v.dtype)) for path, v in flat.items()}
    return Structure(graphdef, abstract), parameters


def abstract(build) -> Structure:
    """The structure of `build()` without computing or allocating anything."""
    return split(nnx.eval_shape(build))[0]


def matching(paths, patterns: tuple[str, ...]) -> frozenset[str]:
    """Those of `paths` whose whole path matches one of the regular expressions; each must match something."""
    try:
        found = {pattern: {path for path in paths if re.fullmatch(pattern, path)} for pattern in patterns}
    except re.error as error:
        raise InputError(f"{error.pattern!r} is no regular expression ({error})") from error
    if idle := [pattern for pattern, hits in found.items() if not hits]:
        raise InputError(f"no parameter matches {idle}; there are, for instance, {sorted(paths)[:5]}")
    return frozenset().union(*found.values())
