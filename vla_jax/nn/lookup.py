"""Rows of a table, by number."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@jax.custom_vjp
def lookup(table: Float[Array, "v d"], ids: Int[Array, "*b"]) -> Float[Array, "*b d"]:
    """NaN for an id beyond the table; negative ids count from its end.

    What the rows' gradients add up to is summed in float32: an id of every sample, as the one a text begins with, would
    else be lost in a large batch. In bfloat16 a sum of ones ends at 256.
    """
    return jnp.take(table, ids, axis=0, mode="fill")


def _forward(table: Array, ids: Array) -> tuple[Array, tuple[Array, Array]]:
    return lookup(table, ids), (table, ids)


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, None]:
    table, ids = saved
    total = jnp.zeros(table.shape, jnp.float32).at[ids].add(gradient.astype(jnp.float32), mode="drop")
    return total.astype(table.dtype), None


lookup.defvjp(_forward, _backward)
