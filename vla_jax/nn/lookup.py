"""Rows of a table, by number.

Axes: v rows of the table, d width, b leading axes, n places of a text, p parts of a text, r rows.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

ROWS_AT_ONCE = 8192
"""That a gradient adds. A TPU's compiler sorts more of them first, in code as large as some layers'."""


@jax.custom_vjp
def lookup(table: Float[Array, "v d"], ids: Int[Array, "*b n"]) -> Float[Array, "*b n d"]:
    """NaN for an id beyond the table; negative ids count from its end.

    What the rows' gradients add up to is summed in float32: an id of every sample, as the one a text begins with, would
    else be lost in a large batch. In bfloat16 a sum of ones ends at 256.
    """
    return jnp.take(table, ids, axis=0, mode="fill")


def _forward(table: Array, ids: Array) -> tuple[Array, tuple[Array, Array]]:
    return lookup(table, ids), (table, ids)


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, None]:
    table, ids = saved

    def add(total: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
        numbers, rows = part
        return total.at[numbers].add(rows.astype(jnp.float32), mode="drop"), None

    num_parts = _num_parts(*ids.shape)
    parts = _rows(ids, -1, num_parts, fill=len(table)), _rows(gradient, -2, num_parts, fill=0)
    total, _ = jax.lax.scan(add, jnp.zeros(table.shape, jnp.float32), parts)
    return total.astype(table.dtype), None


def _num_parts(*shape: int) -> int:
    *leading, places = shape
    places_at_once = max(1, ROWS_AT_ONCE // max(1, math.prod(leading)))
    return max(1, math.ceil(places / places_at_once))


def _rows(array: Array, places: int, num_parts: int, *, fill: int) -> Array:
    """[p, r] of [*b, n], or the same with a width behind it: all samples' first places, then their second ones.

    Rows of several places lie on no device by their samples: those of a pod are exchanged once, not part by part.
    """
    width = array.shape[places:][1:]
    array = jnp.moveaxis(array, places, 0)
    missing = -len(array) % num_parts
    array = jnp.pad(array, [(0, missing), *[(0, 0)] * (array.ndim - 1)], constant_values=fill)
    return array.reshape(num_parts, -1, *width)


lookup.defvjp(_forward, _backward)
