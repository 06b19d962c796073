"""RoIAlign: features of boxes, by bilinear samples of a feature grid; DFA-VLA's V_local (Eq. 2).

Axes: b batch, r rows and c columns of the grid, k boxes, p rows and q columns of a box's own grid, d width.
Source: He et al. 2017; equal to `torchvision.ops.roi_align(aligned=True, sampling_ratio=2)` with boxes in units of the
grid's cells (`tests/fusion/golden`). A sample outside the grid by more than a cell counts as zero.

A bilinear weight is the product of one along the rows and one along the columns, and so is the mean over a cell's
samples: two matrix products with small dense weights, and no gather, which suits TPUs.
Differs: the number of boxes is fixed, and a mask says which there are; boxes have a gradient, torchvision's have none.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

SAMPLES = 2
"""Along each side of a cell of the box."""
PIXEL_CENTRE = 0.5
"""Where in its cell a feature stands: what torchvision calls `aligned`."""


def roi_align(
    features: Float[Array, "b r c d"], boxes: Float[Array, "b k 4"], mask: Bool[Array, "b k"], *, size: int
) -> Float[Array, "b k p p d"]:
    """Args: boxes: left, upper, right, lower, in shares of the picture. size: p. Masked boxes give zeros."""
    rows, columns = features.shape[1:3]
    boxes = jnp.where(mask[..., None], boxes.astype(jnp.float32), 0.0)  # whatever padding holds, NaN too
    left, upper, right, lower = (boxes[..., side] for side in range(4))
    along_rows = _weights(upper * rows, lower * rows, size, rows) * mask[..., None, None]
    along_columns = _weights(left * columns, right * columns, size, columns)
    dtype = features.dtype
    strips = jnp.einsum("bkpr,brcd->bkpcd", along_rows.astype(dtype), features)
    return jnp.einsum("bkqc,bkpcd->bkpqd", along_columns.astype(dtype), strips)


def _weights(start: Float[Array, "b k"], end: Float[Array, "b k"], size: int, length: int) -> Float[Array, "b k p r"]:
    """Of the grid's cells along one side, in each cell of the box along it. Args: start, end: in cells of the grid."""
    steps = (jnp.arange(size * SAMPLES) + 0.5) / (size * SAMPLES)
    samples = start[..., None] + (end - start)[..., None] * steps - PIXEL_CENTRE
    is_inside = (samples >= -1) & (samples <= length)
    nearest = jnp.clip(samples, 0, length - 1)
    weights = jnp.maximum(1 - jnp.abs(nearest[..., None] - jnp.arange(length)), 0) * is_inside[..., None]
    return weights.reshape(*start.shape, size, SAMPLES, length).mean(axis=-2)
