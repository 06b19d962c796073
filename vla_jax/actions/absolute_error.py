"""The L1 loss that regression heads share.

Axes: b batch, w window, h horizon, a action.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vla_jax.types import Losses


def absolute_error(
    predicted: Float[Array, "b w h a"], action: Float[Array, "b w h a"], action_mask: Bool[Array, "b w h a"]
) -> Losses:
    """Mean |predicted - action| over the valid targets, in normalised units."""
    weight = action_mask.sum().astype(jnp.float32)
    error = jnp.where(action_mask, jnp.abs(predicted - action), 0.0)
    total = error.sum() / jnp.maximum(weight, 1.0)
    return Losses(total=total, weight=weight, terms={"l1": total})
