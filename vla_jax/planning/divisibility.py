"""Whether a mesh divides what a run has to divide, before anything is compiled.

`vla_jax/sharding.py` replicates a parameter whose dimensions a mesh axis does not divide, and a matrix of heads is cut
wherever its size allows. Both train correctly; the one may waste memory, the other cuts heads in two and sends their
pieces about. So an axis that misses most of what it is for, and one that cuts heads, are refused here, and single
parameters that are replicated are named.
"""

import dataclasses
import math

import jax
from flax import nnx

from vla_jax.config import RunConfig
from vla_jax.nn.attention import AttentionConfig
from vla_jax.sharding import RULES
from vla_jax.training.program import Program
from vla_jax.types import InputError


@dataclasses.dataclass(frozen=True)
class Replicated:
    """A parameter that every chip along a mesh axis holds, though a rule wants it divided."""

    path: str
    axis: str
    why: str
    bytes: int
    """Of its master weights on a chip."""


def refuse_cut_heads(config: RunConfig, ways: int) -> None:
    """Args: ways: size of the mesh axis `tensor`."""
    if ways == 1:
        return
    policy = nnx.eval_shape(lambda: config.build_policy(nnx.Rngs(0)))
    for path, module in nnx.iter_modules(policy):
        attention = getattr(module, "config", None)
        if isinstance(attention, AttentionConfig):
            name = "/".join(map(str, path))
            for projection, heads in (("query", attention.num_heads), ("key", attention.groups)):
                size = heads * attention.features
                if heads % ways and not size % ways:
                    raise InputError(
                        f"mesh.tensor={ways}: {name}/{projection} has {heads} heads of {attention.features}, and the "
                        f"rule heads -> tensor would cut some in two; mesh.tensor must divide {heads}"
                    )


def replicated(program: Program) -> tuple[Replicated, ...]:
    """The largest first. InputError: an axis divides less than half of what its rules name."""
    found: list[Replicated] = []
    shapes, names = program.structure.shapes(), program.structure.logical_axes()
    for axis, ways in program.mesh.shape.items():
        wanted = {path for path in shapes if axis in {_rule(name) for name in names[path]}}
        missed = {path for path in wanted if axis not in jax.tree.leaves(tuple(program.shardings[path].spec))}
        if ways == 1 or not missed:
            continue
        sizes = {path: math.prod(shapes[path].shape) for path in wanted}
        largest = max(missed, key=lambda path: sizes[path])
        if 2 * sum(sizes[path] for path in missed) > sum(sizes.values()):
            raise InputError(
                f"mesh.{axis}={ways} does not divide most of what it is for. The largest parameter is {largest}, "
                f"{shapes[largest].shape}: {_why(shapes[largest].shape, names[largest], axis)}, not by {ways}; "
                "choose another size"
            )
        found += [
            Replicated(path, axis, _why(shapes[path].shape, names[path], axis), _bytes_of_a_chip(program, path))
            for path in missed
        ]
    return tuple(sorted(found, key=lambda one: -one.bytes))


def _why(shape: tuple[int, ...], names: tuple[str | None, ...], axis: str) -> str:
    sizes = [f"{name} {size}" for name, size in zip(names, shape) if _rule(name) == axis]
    return f"the rule {' and '.join(sizes)} -> {axis}"


def _rule(name: str | None) -> str | None:
    return RULES[name] if name else None


def _bytes_of_a_chip(program: Program, path: str) -> int:
    shape = program.structure.shapes()[path].shape
    return 4 * math.prod(program.shardings[path].shard_shape(shape))
