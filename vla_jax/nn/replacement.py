"""Linear layers of a built module, found by their path and replaced by a layer that stands in for them."""

import re
from collections.abc import Callable
from typing import Any

from flax import nnx

from vla_jax.types import InputError


def linear_paths(module: nnx.Module) -> list[str]:
    """Slash-joined paths of the plain linear layers; a stack's blocks are one layer."""
    return sorted("/".join(map(str, path)) for path, found in nnx.iter_modules(module) if type(found) is nnx.Linear)


def replace_linears(
    module: nnx.Module, targets: tuple[str, ...], stand_in: Callable[[nnx.Linear], nnx.Module], *, option: str
) -> None:
    """Puts `stand_in(linear)` in the place of every linear layer whose whole path matches a regular expression.

    Works in place, on modules under `jax.eval_shape` or `jax.vmap`, too. Layers are gone through in the order of
    their paths. Args: option: what the user calls `targets`, for the message.

    Raises:
        InputError: a pattern that matches no plain linear layer.
    """
    paths = linear_paths(module)
    chosen = {target: [path for path in paths if re.fullmatch(target, path)] for target in targets}
    if idle := [target for target, hits in chosen.items() if not hits]:
        raise InputError(f"{option}: no linear layer matches {idle}; there are {_families(paths)}")
    for path in sorted(set().union(*chosen.values())):
        *parents, name = path.split("/")
        parent: Any = module
        for step in parents:
            parent = _child(parent, step)
        linear = _child(parent, name)
        if isinstance(parent, nnx.List):
            parent[int(name)] = stand_in(linear)
        else:
            setattr(parent, name, stand_in(linear))


def _child(parent: Any, name: str) -> Any:
    return parent[int(name)] if isinstance(parent, nnx.List) else getattr(parent, name)


def _families(paths: list[str]) -> str:
    """All of a small model's layers; of a large one the first forty."""
    more = f" and {len(paths) - 40} more" if len(paths) > 40 else ""
    return ", ".join(paths[:40]) + more
