"""Cross-entropy over a vocabulary: the mean over positions that count, in float32.

Axes: b any leading axes, p positions, d width, v vocabulary.

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
    hidden: Float[Array, "*b d"],
    targets: Int[Array, "*b"],
    mask: Bool[Array, "*b"],
    *,
    head: Callable[[Float[Array, "p d"]], Float[Array, "p v"]],
    chunk_length: int | None = None,
) -> Float32[Array, ""]:
    """Mean over the positions of `mask`; 0 where there are none. Targets elsewhere may be anything.

    `head` makes hidden states logits, of `chunk_length` positions at a time; None: of all at once.
    """
    hidden, targets, mask = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1), mask.reshape(-1)
    targets = jnp.where(mask, targets, 0)

    def total(hidden: Array, targets: Array, mask: Array) -> Array:
        return jnp.sum(jnp.where(mask, cross_entropy(head(hidden), targets), 0.0))

    if chunk_length is None:
        loss = total(hidden, targets, mask)
    else:
        behind = -len(targets) % chunk_length
        padded = (jnp.pad(hidden, ((0, behind), (0, 0))), jnp.pad(targets, (0, behind)), jnp.pad(mask, (0, behind)))
        chunks = [array.reshape(-1, chunk_length, *array.shape[1:]) for array in padded]
        chunk_total = jax.checkpoint(total, prevent_cse=False)
        loss, _ = jax.lax.scan(lambda so_far, chunk: (so_far + chunk_total(*chunk), None), jnp.float32(0), chunks)
    return loss / jnp.maximum(jnp.sum(mask), 1)
