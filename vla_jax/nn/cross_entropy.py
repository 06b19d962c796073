"""Cross-entropy over a vocabulary: the mean over positions that count, in float32.

Axes: b any leading axes, n positions of a row, p of a chunk, d width, v vocabulary.

A position costs logsumexp(logits) - logits[target]; no distribution and no one-hot array is formed. With `chunk_length`
the logits themselves never exist for all positions at once, nor in the backward pass, which makes them anew.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int


def cross_entropy(logits: Float[Array, "*b v"], targets: Int[Array, "*b"]) -> Float32[Array, "*b"]:
    """At each position. A target outside the vocabulary gives NaN."""
    logits = logits.astype(jnp.float32)
    targets = jnp.where(targets < 0, logits.shape[-1], targets)  # which would count from the end
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1, mode="fill", fill_value=jnp.nan)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def mean_cross_entropy(
    hidden: Float[Array, "*b n d"],
    targets: Int[Array, "*b n"],
    mask: Bool[Array, "*b n"],
    *,
    head: Callable[[Float[Array, "*b p d"]], Float[Array, "*b p v"]],
    chunk_length: int | None = None,
) -> Float32[Array, ""]:
    """Mean over the positions of `mask`; 0 where there are none. Targets elsewhere may be anything.

    `head` makes hidden states logits, of `chunk_length` positions of every row at a time; None: of all at once.
    """
    targets = jnp.where(mask, targets, 0)

    def total(hidden: Array, targets: Array, mask: Array) -> Array:
        return jnp.sum(jnp.where(mask, cross_entropy(head(hidden), targets), 0.0))

    if chunk_length is None:
        loss = total(hidden, targets, mask)
    else:
        chunks = [_chunks(array, targets.ndim - 1, chunk_length) for array in (hidden, targets, mask)]
        chunk_total = jax.checkpoint(total, prevent_cse=False)
        loss, _ = jax.lax.scan(lambda so_far, chunk: (so_far + chunk_total(*chunk), None), jnp.float32(0), chunks)
    return loss / jnp.maximum(jnp.sum(mask), 1)


def _chunks(array: Array, axis: int, length: int) -> Array:
    """Leading; the last is filled up with zeros. A mesh shares rows out: a chunk of some rows alone would be gathered.

    Args: axis: of the positions.
    """
    length = min(length, array.shape[axis])
    behind = [(0, -size % length if place == axis else 0) for place, size in enumerate(array.shape)]
    padded = jnp.pad(array, behind)
    return jnp.moveaxis(padded.reshape(*array.shape[:axis], -1, length, *array.shape[axis + 1 :]), axis, 0)
