"""Parameters that lie whole on every device of a mesh axis, though a rule of `vla_jax/sharding.py` wants them shared.

Large ones are refused there, by name; these are small, and are named so that nobody wonders where the memory goes.
"""

import dataclasses
import math

from vla_jax import sharding
from vla_jax.training.program import Program


@dataclasses.dataclass(frozen=True)
class Replicated:
    path: str
    axis: str
    """Of the mesh."""
    why: str
    bytes: int
    """Of its master weights on a chip."""


def replicated(program: Program) -> tuple[Replicated, ...]:
    """The largest first."""
    found = []
    shapes, names = program.structure.shapes(), program.structure.logical_axes()
    for axis, ways in program.mesh.shape.items():
        for path, shape in shapes.items():
            ruled = [f"{name} {size}" for name, size in zip(names[path], shape.shape) if sharding.rule(name) == axis]
            held = program.shardings[path]
            if ways > 1 and ruled and axis not in sharding.shared_over(held):
                size = 4 * math.prod(held.shard_shape(shape.shape))
                found.append(Replicated(path, axis, f"{' and '.join(ruled)} -> {axis} {ways}", size))
    return tuple(sorted(found, key=lambda one: -one.bytes))
