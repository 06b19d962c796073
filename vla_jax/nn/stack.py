"""A stack of equal blocks: parameters stacked on a leading `layers` axis, run by one scan.

Axes: l layers, b batch, n tokens, k memory tokens, d width, e memory width.
The scan body never returns a block: that would keep a second copy of the parameters. What is asked for from some
layers only is written into room for them alone, which the scan carries; to cut the scan there would cost as many sums
of gradients, each as large as all parameters, as there are parts.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from vla_jax.nn import attention_kernels
from vla_jax.nn.attention import KeyValue, Projections
from vla_jax.nn.block import Block, BlockConfig
from vla_jax.nn.rotary import Rotation
from vla_jax.types import InputError, Mask

Remat = Literal["none", "dots", "narrow", "full"]
"""What a layer's backward pass finds there, from most memory to most recomputation. All keep the layer's input.

`none`: everything. `dots`: what its products with weights gave; attention's scores and all that is done number by
number are computed again. `narrow`: of these, not what is wider than its input (an MLP's hidden layer). `full`: nothing
more.
"""
Span = tuple[int, int | None]
"""First layer, and the one past the last; None: to the end."""
WHOLE: Span = (0, None)


Edit = Callable[[Array, Array], Array]
"""(a layer's input, the layer's number over the whole stack) -> what the layer reads in its place."""


class Taps(NamedTuple):
    """Where one looks, or reaches, into a stack; layers are counted from 0 over the whole of it."""

    layers: Sequence[int] = ()
    """For the blocks' outputs."""
    projections: Sequence[int] = ()
    """For queries, keys and values."""
    kept: Callable[[Projections], Any] | None = None
    """What is kept of the queries, keys and values, made inside the layer: they themselves need not be held then."""
    edit: Edit | None = None
    """For probes."""

    @property
    def asked(self) -> tuple[Sequence[int], Sequence[int]]:
        """Layers, by kind."""
        return self.layers, self.projections


NO_TAPS = Taps()


class StackOutput(NamedTuple):
    tokens: Float[Array, "b n d"]
    layers: Float[Array, "l b n d"] | None
    """In the order asked for."""
    projections: Any | None
    """`Projections`, or what `Taps.kept` makes of them; a leading axis of layers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StackConfig:
    block: BlockConfig
    num_layers: int
    remat: Remat = "full"

    def build(self, rngs: nnx.Rngs) -> "Stack":
        return Stack(self, rngs=rngs)


class Stack(nnx.Module):
    def __init__(self, config: StackConfig, *, rngs: nnx.Rngs):
        keys = jax.random.split(rngs.params(), config.num_layers)
        self.num_layers = config.num_layers
        self.remat = config.remat
        self.blocks = jax.vmap(lambda key: config.block.build(nnx.Rngs(key)))(keys)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        memory: Float[Array, "b k e"] | None = None,
        *,
        mask: Mask | None = None,
        rotation: Rotation | None = None,
        key: Key[Array, ""] | None = None,
        extra: KeyValue | None = None,
        span: Span = WHOLE,
    ) -> Float[Array, "b n d"]:
        """Runs the blocks of `span`. `extra`: further keys and values of each of them, [l, b, k, g, f]."""
        start, stop = self.bounds(span)
        keys = None if key is None else jax.random.split(key, self.num_layers)[start:stop]

        def body(x: Array, layer: tuple) -> tuple[Array, None]:
            number, block_extra, block_key = layer
            block = self.at(number)
            return block(x, memory, mask=mask, rotation=rotation, key=block_key, extra=block_extra), None

        return jax.lax.scan(self.checkpointed(body), x, (self.numbers((start, stop)), extra, keys))[0]

    def run(
        self,
        x: Float[Array, "b n d"],
        taps: Taps,
        *,
        mask: Mask | None = None,
        rotation: Rotation | None = None,
        extra: KeyValue | None = None,
        additions: Float[Array, "m b n d"] | None = None,
        span: Span = WHOLE,
    ) -> StackOutput:
        """As a call without dropout, with what `taps` ask for.

        Args: additions: to the outputs of the first m blocks of `span` (DeepStack); what is tapped has them.
        Raises: InputError: a tap or an addition lies outside `span`.
        """
        start, stop = self.bounds(span)
        num_additions = 0 if additions is None else len(additions)
        if num_additions > stop - start:
            raise InputError(f"{num_additions} additions to the outputs of the {stop - start} layers {start}:{stop}")
        wanted = {*taps.layers, *taps.projections}
        if out_of_range := sorted(layer for layer in wanted if not start <= layer < stop):
            raise InputError(
                f"layers {out_of_range} were asked for; the blocks that run whole are {start} to {stop - 1}"
            )

        def one(x: Array, number: Block | Array, block_extra: KeyValue | None) -> tuple[Array, Any]:
            layer = functools.partial(_tapped, self.at(number), taps, mask, rotation, block_extra)
            is_alike = mask is None and block_extra is None and (rotation is None or rotation.cos.ndim == 2)
            return few_rows(layer, x) if is_alike else layer(x)

        def body(carry: tuple, layer: tuple) -> tuple[tuple, None]:
            (x, rooms), (index, places, *inputs) = carry, layer
            x = x if taps.edit is None else taps.edit(x, start + index)
            x, projections = self.checkpointed(one)(x, *inputs)
            if additions is not None:
                x = x + jnp.where(index < num_additions, additions[jnp.minimum(index, num_additions - 1)], 0)
            return (x, [_put(*each) for each in zip(rooms, places, (x, projections), strict=True)]), None

        inputs = (self.numbers((start, stop)), extra)
        places = [_places(layers, start, stop) for layers in taps.asked]
        rooms: list[Any] = [None, None]
        if wanted:
            shapes = jax.eval_shape(lambda x, all: one(x, *jax.tree.map(lambda a: a[0], all)), x, inputs)
            rooms = [_room(shape, rows) for shape, rows in zip(shapes, places, strict=True)]
        (x, rooms), _ = jax.lax.scan(body, (x, rooms), (jnp.arange(stop - start), places, *inputs))
        return StackOutput(x, *(_ordered(room, layers) for room, layers in zip(rooms, taps.asked, strict=True)))

    def block(self, index: int) -> Block:
        return jax.tree.map(lambda stacked: stacked[index], self.blocks)

    def numbers(self, span: Span) -> Block | Int[Array, "b"]:
        """What a scan over `span` goes through: the blocks where they are all, else their numbers.

        A slice of the stacked parameters would be a copy of them. Over the whole stack the blocks themselves are
        better: their gradients then come out stacked, and are not added to a sum in each step.
        """
        start, stop = span
        return self.blocks if (start, stop) == (0, self.num_layers) else jnp.arange(start, stop)

    def at(self, number: Block | Int[Array, ""]) -> Block:
        """The block of one of `numbers`."""
        if isinstance(number, Block):
            return number
        return jax.tree.map(lambda all: jax.lax.dynamic_index_in_dim(all, number, keepdims=False), self.blocks)

    def bounds(self, span: Span) -> tuple[int, int]:
        start, stop = span[0], self.num_layers if span[1] is None else span[1]
        if not 0 <= start <= stop <= self.num_layers:
            raise InputError(f"layers {start}:{stop} were asked for; there are 0:{self.num_layers}")
        return start, stop

    def checkpointed(self, body):
        return checkpointed(body, self.remat)


def checkpointed(body: Callable, remat: Remat) -> Callable:
    """The body of a scan over layers, recomputed in the backward pass as `remat` says."""
    if remat == "none":
        return body
    return jax.checkpoint(body, prevent_cse=False, policy=_KEPT[remat])


def _tapped(
    block: Block, taps: Taps, mask: Mask | None, rotation: Rotation | None, extra: KeyValue | None, x: Array
) -> tuple[Array, Any]:
    """A layer's output, and what is kept of its projections."""
    projections = block.projections(x, rotation=rotation)
    kept = projections if taps.kept is None else taps.kept(projections)
    return block.finish(x, block.attention.combine(projections, mask=mask, extra=extra)), kept


def few_rows(layer: Callable[[Array], Any], x: Float[Array, "b n d"]) -> Any:
    """`layer(x)`, as many rows at a time as the program that is traced asks for."""
    kernels = attention_kernels.active()
    rows = None if kernels is None else kernels.rows
    if rows is None or len(x) == rows or len(x) % rows:
        return layer(x)
    found = jax.lax.map(layer, x.reshape(-1, rows, *x.shape[1:]))
    return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), found)


def _is_narrow_dot(primitive, *inputs, **parameters) -> bool:
    if not jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *inputs, **parameters):
        return False
    x, kernel = inputs[:2]
    contracted = math.prod(x.shape[axis] for axis in parameters["dimension_numbers"][0][0])
    return kernel.size <= contracted**2


_KEPT: dict[Remat, Callable | None] = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "narrow": _is_narrow_dot,
    "full": None,
}


def _places(wanted: Sequence[int], start: int, stop: int) -> Int[np.ndarray, "k"] | None:
    """Where each layer of a span goes among those that are asked for; None: none are.

    Another layer goes where the next one of them goes and takes its place, or behind the last.
    """
    return np.searchsorted(sorted(set(wanted)), np.arange(start, stop)) if len(wanted) else None


def _room(found, places: Int[np.ndarray, "k"] | None):
    """For as many arrays like `found`, or tuples of arrays, as there are places."""
    if places is None:
        return None
    return jax.tree.map(lambda array: jnp.zeros((max(places) + 1, *array.shape), array.dtype), found)


def _put(room, place: Int[Array, ""] | None, found):
    if room is None:
        return None
    return jax.tree.map(lambda all, own: jax.lax.dynamic_update_index_in_dim(all, own, place, 0), room, found)


def _ordered(room, wanted: Sequence[int]):
    """In the order asked for; those in `room` are in the order of layers, and may be followed by one of no use."""
    if room is None:
        return None
    order = np.searchsorted(sorted(set(wanted)), wanted)
    rows = slice(len(order)) if np.array_equal(order, np.arange(len(order))) else order
    return jax.tree.map(lambda stacked: stacked[rows], room)
