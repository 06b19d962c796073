"""Fixed position codes."""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Layout = Literal["interleaved", "halves"]
"""sin in even columns and cos in odd ones; or sin in the first half and cos in the second."""


def sinusoidal(length: int, width: int, layout: Layout = "interleaved") -> Float[Array, "t d"]:
    """Wavelengths from 2 pi to 10000 * 2 pi. Source: Vaswani et al. 2017, section 3.5."""
    assert width % 2 == 0, f"width={width} must be even"
    angles = np.arange(length)[:, None] * np.exp(np.arange(0, width, 2) * (-np.log(10_000.0) / width))[None]
    order = -1 if layout == "interleaved" else 1
    return jnp.asarray(np.stack([np.sin(angles), np.cos(angles)], axis=order).reshape(length, width), jnp.float32)
