"""Multi-scale visual-semantic modelling: a picture's grid of features and its objects' features as tokens (DFA-VLA).

Axes: b batch, f frames, r rows and c columns of the grid, k boxes, n = f r c + k tokens, e width of the encoder,
d width of the tokens.
Source: DFA-VLA Eq. 1-4. Eq. 2 gives one vector a box where RoIAlign gives a grid of them: here their mean over
`roi_size` x `roi_size` (7, sampled twice along a side, `aligned`). Boxes come with the data; padding gives no token.
Differs: S = 14 needs a patch of 16 pixels at 224; `cells` resamples the grid of another encoder. The mean over the
pixels of SAM's masks in place of RoIAlign is not built: the sidecar has boxes alone.
"""

import dataclasses
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from vla_jax.fusion.roi_align import roi_align
from vla_jax.nn.interpolation import resize_grid
from vla_jax.nn.linear import linear


class VisualTokens(NamedTuple):
    tokens: Float[Array, "b n d"]
    """V_proj: frame by frame the grid, row by row; then the boxes."""
    mask: Bool[Array, "b n"]
    num_local: int
    """Boxes."""

    @property
    def local(self) -> Float[Array, "b k d"]:
        return self.tokens[:, self.tokens.shape[1] - self.num_local :]

    @property
    def local_mask(self) -> Bool[Array, "b k"]:
        return self.mask[:, self.mask.shape[1] - self.num_local :]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MvsmConfig:
    cells: int | None = None
    """The grid is resampled, bilinearly, to as many cells a side; None: it stays as the encoder gives it."""
    roi_size: int = 7

    def build(self, in_width: int, out_width: int, rngs: nnx.Rngs) -> "Mvsm":
        return Mvsm(self, in_width, out_width, rngs=rngs)


class Mvsm(nnx.Module):
    def __init__(self, config: MvsmConfig, in_width: int, out_width: int, *, rngs: nnx.Rngs):
        self.config = config
        self.projection = linear(in_width, out_width, ("feature", "embed"), rngs=rngs)

    def __call__(
        self,
        grids: Float[Array, "b f r c e"],
        frame_mask: Bool[Array, "b f"],
        boxes: Float[Array, "b k 4"] | None = None,
        box_mask: Bool[Array, "b k"] | None = None,
    ) -> VisualTokens:
        """Args: grids: one or more; boxes are those of the last. boxes: as `roi_align` has them; None: there are none.

        A frame that is masked has neither cells nor boxes.
        """
        cells = self.config.cells
        if cells is not None and grids.shape[2:4] != (cells, cells):
            grids = resize_grid(grids, cells, cells, "bilinear")
        batch, _, rows, columns, width = grids.shape
        tokens, mask = grids.reshape(batch, -1, width), jnp.repeat(frame_mask, rows * columns, axis=1)
        if boxes is None or box_mask is None:
            return VisualTokens(self.projection(tokens), mask, 0)
        box_mask = box_mask & frame_mask[:, -1:]
        local = roi_align(grids[:, -1], boxes, box_mask, size=self.config.roi_size).mean(axis=(2, 3))
        tokens, mask = jnp.concatenate([tokens, local], axis=1), jnp.concatenate([mask, box_mask], axis=1)
        return VisualTokens(self.projection(tokens), mask, boxes.shape[1])


def grid_boxes(count: int) -> Float[np.ndarray, "k 4"]:
    """Stand-ins where nobody knows of boxes (a robot without SAM): the squares of a grid, in rows.

    The same as the data pipeline's for datasets without the sidecar.
    """
    side = max(1, math.ceil(math.sqrt(count)))
    row, column = np.divmod(np.arange(count), side)
    return (np.stack([column, row, column + 1, row + 1], axis=-1) / side).astype(np.float32)


def inside_box(
    boxes: Float[Array, "b k 4"], target: Int[Array, "b"], rows: int, columns: int, *, num_frames: int
) -> Bool[Array, "b n"]:
    """The tokens of one box: the cells of the last frame whose centres it holds, and its own. Args: target: or -1."""
    box = jnp.take_along_axis(boxes, jnp.maximum(target, 0)[:, None, None], axis=1)
    left, upper, right, lower = jnp.moveaxis(box, -1, 0)
    x, y = (jnp.arange(columns) + 0.5) / columns, (jnp.arange(rows) + 0.5) / rows
    cells = ((y >= upper) & (y <= lower))[:, :, None] & ((x >= left) & (x <= right))[:, None]
    cells = cells.reshape(len(boxes), -1)
    earlier = jnp.zeros((len(boxes), (num_frames - 1) * rows * columns), bool)
    own = jnp.arange(boxes.shape[1]) == target[:, None]
    return jnp.concatenate([earlier, cells, own], axis=1) & (target >= 0)[:, None]
