"""Fixed position codes."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def sinusoidal(length: int, width: int) -> Float[Array, "t d"]:
    """sin in even columns, cos in odd ones, wavelengths from 2 pi to 10000 * 2 pi.

    Source: Vaswani et al. 2017, section 3.5.
    """
    assert width % 2 == 0, f"width={width} must be even"
    angles = np.arange(length)[:, None] * np.exp(np.arange(0, width, 2) * (-np.log(10_000.0) / width))[None]
    return jnp.asarray(np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, width), jnp.float32)
