"""Products with the weights of linear layers, as FSDP wants them: gathered where they are used, reduced where they lie.

Left alone, XLA follows the weights: `embed` shared out over `fsdp` becomes activations shared out by their width and
whole over the batch. And where the devices of a gradient's sum are a whole torus of a TPU, its compiler makes any
reduce-scatter an all-reduce and a slice, psum_scatter included: twice the traffic. Both are said here, per product:

    forward    rows of the input stay on the devices that have them; the kernel is gathered over `fsdp`
    backward   each device multiplies its own rows; the sum is scattered over `fsdp` in two phases, each along one
               dimension of the torus, which stay reduce-scatters

Layers are found in the built module and given these products; models know nothing of it. What is no `nnx.Linear`
(tables, adapters, convolutions) is left to the compiler. So is a product whose leading axis the devices do not divide.

Axes: r leading axis (the batch, or what it is the slowest part of), i in, o out.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vla_jax.parameters import logical_axes
from vla_jax.sharding import PHASES, in_phases, names_of, parameter_sharding, phased

ReductionDtype = Literal["compute", "float32"]
_ROWS = ("data", *PHASES)


@dataclasses.dataclass(frozen=True)
class Product:
    """`lax.dot_general` of one linear layer: [r, ..., i] x [i, o]."""

    mesh: Mesh
    """In phases."""
    kernel: PartitionSpec
    """As it is stored, without the axis of layers; in phases."""
    reduction: ReductionDtype

    def __call__(self, x: jax.Array, kernel: jax.Array, dimensions: Any, **options: Any) -> jax.Array:
        if x.ndim < 2 or x.shape[0] % math.prod(self.mesh.shape[axis] for axis in _ROWS):
            return jax.lax.dot_general(x, kernel, dimensions, **options)
        return self._product(x, kernel)

    def _product(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        product = jax.custom_vjp(self._forward)
        product.defvjp(lambda x, kernel: (self._forward(x, kernel), (x, kernel)), self._backward)
        return product(x, kernel)

    def _forward(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return self._rows(self._rows(x) @ self._gathered(kernel))

    def _backward(self, saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, kernel = saved
        x, dy = self._rows(x), self._rows(dy)
        dx = self._rows(jnp.matmul(dy, self._gathered(kernel).T))
        return dx, self._kernel_gradient(x, dy).astype(kernel.dtype)

    def _kernel_gradient(self, x: jax.Array, dy: jax.Array) -> jax.Array:
        dtype = jnp.float32 if self.reduction == "float32" else x.dtype
        stored = [[name for name in names_of(entry) if name in PHASES] for entry in self.kernel]
        # What is scattered first stands first, in memory too: the other way a TPU's tile is 128 long, and a share that
        # is no multiple of it is no scatter.
        is_turned = not stored[0]
        stored = stored[::-1] if is_turned else stored

        def local(left: jax.Array, right: jax.Array) -> jax.Array:
            over = tuple(range(left.ndim - 1))
            partial_sum = jax.lax.dot_general(left, right, ((over, over), ((), ())), preferred_element_type=dtype)
            partial_sum = with_layout_constraint(partial_sum, Layout((0, 1)))
            for dimension, phases in enumerate(stored):
                for phase in phases:
                    partial_sum = jax.lax.psum_scatter(partial_sum, phase, scatter_dimension=dimension, tiled=True)
            scattered = [phase for phases in stored for phase in phases]
            return jax.lax.psum(partial_sum, tuple(axis for axis in _ROWS if axis not in scattered))

        rows, out = PartitionSpec(_ROWS), PartitionSpec(*(tuple(phases) or None for phases in stored))
        add = jax.shard_map(local, mesh=self.mesh, in_specs=(rows, rows), out_specs=out, axis_names=set(_ROWS))
        found = add(dy, x).T if is_turned else add(x, dy)
        return jax.lax.with_sharding_constraint(found, NamedSharding(self.mesh, self.kernel))

    def _rows(self, x: jax.Array) -> jax.Array:
        free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, PartitionSpec(_ROWS, *free)))

    def _gathered(self, kernel: jax.Array) -> jax.Array:
        kept = (tuple(name for name in names_of(entry) if name not in PHASES) for entry in self.kernel)
        spec = PartitionSpec(*(names or None for names in kept))
        return jax.lax.with_sharding_constraint(kernel, NamedSharding(self.mesh, spec))


def with_products(module: Any, mesh: Mesh, reduction: ReductionDtype) -> Any:
    """The module, its linear layers with products for this mesh. In place; works under `nnx.eval_shape`.

    Where `tensor` is all there is of the mesh, nothing is gathered or summed over rows, and nothing is done.
    """
    whole = phased(mesh)
    if math.prod(whole.shape[axis] for axis in _ROWS) == 1:
        return module
    for path, layer in nnx.iter_modules(module):
        if type(layer) is nnx.Linear:
            spec = _spec(mesh, layer, "/".join(map(str, path)) + "/kernel")
            layer.dot_general = Product(whole, spec, reduction)
    return module


def _spec(mesh: Mesh, layer: nnx.Linear, path: str) -> PartitionSpec:
    axes = logical_axes(layer.kernel.get_metadata(), layer.kernel.ndim)
    stored = parameter_sharding(mesh, layer.kernel.shape, axes, path=path).spec
    return in_phases(PartitionSpec(*tuple(stored)[-2:]))
