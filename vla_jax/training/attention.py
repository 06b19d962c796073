"""What the attention of a training program runs on: the mesh's platform, each device on its rows and heads.

Axes: b batch, n positions, h heads, f head width.
"""

import functools
from collections.abc import Callable

import jax
from jax.sharding import Mesh, PartitionSpec

from vla_jax.nn.attention_kernels import AttentionKernels, Choice
from vla_jax.sharding import BATCH


def attention_kernels(choice: Choice, mesh: Mesh) -> AttentionKernels:
    spread = None if mesh.size == 1 else functools.partial(over_rows_and_heads, mesh)
    return AttentionKernels(choice=choice, platform=mesh.devices.flat[0].platform, spread=spread)


def over_rows_and_heads(mesh: Mesh, function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`function` of arrays [b, n, h, f] and [b, n], each device on its part: attention needs nothing of the others.

    Rows or heads that do not divide over their devices are computed on all of them.
    """

    def spread(*arrays: jax.Array) -> jax.Array:
        ways = mesh.shape["data"] * mesh.shape["fsdp"]
        rows = BATCH[0] if all(len(array) % ways == 0 for array in arrays) else None
        num_heads = [array.shape[2] for array in arrays if array.ndim == 4]
        heads = "tensor" if all(count % mesh.shape["tensor"] == 0 for count in num_heads) else None
        specs = tuple(PartitionSpec(*(rows, None, heads, None)[: array.ndim]) for array in arrays)
        run = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=specs[0], check_vma=False)
        return run(*arrays)

    return spread
