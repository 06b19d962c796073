"""Positions of text with pictures in it, in time, height and width (M-RoPE of Qwen2-VL and later).

Axes: b batch, n tokens. Source: transformers 5.23 `Qwen3VLModel.get_rope_index`, for stills.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


def picture_positions(
    valid: Bool[Array, "b n"], is_picture: Bool[Array, "b n"], grids: Sequence[tuple[int, int]]
) -> Int[Array, "3 b n"]:
    """Text counts on in all three; a picture has one time, and rows and columns that count from there.

    What follows a picture counts on from past its longer side. Padding is at 0 and counts nowhere.

    Args:
        valid: False where there is padding, on either side.
        is_picture: the places of pictures' tokens, row by row.
        grids: rows and columns of each picture, in the order of the text; the same in every row of the batch.
    """
    places = [np.stack(np.divmod(np.arange(rows * columns), columns)) for rows, columns in grids]
    within = np.concatenate([np.zeros((2, 0), int), *places, np.zeros((2, 1), int)], axis=1)
    advances = [np.r_[np.zeros(rows * columns - 1, int), max(rows, columns)] for rows, columns in grids]
    past = np.cumsum(np.concatenate([[0], *advances]))  # by pictures' tokens so far: what whole pictures took
    is_text = valid & ~is_picture
    text_before, pictures_before = (jnp.cumsum(kind, axis=-1) - kind for kind in (is_text, valid & is_picture))
    start = text_before + jnp.take(jnp.asarray(past), pictures_before, mode="clip")
    inside = jnp.take(jnp.asarray(within), pictures_before, axis=1, mode="clip") * is_picture
    return jnp.where(valid, jnp.stack([start, start + inside[0], start + inside[1]]), 0)


def next_position(positions: Int[Array, "3 b n"]) -> Int[Array, "b"]:
    """Of text that follows. Padding is at 0, so that it does not show."""
    return jnp.max(positions, axis=(0, 2)) + 1


def finer_positions(first: Int[Array, "3 b"], grid: tuple[int, int], finer: tuple[int, int]) -> Float[Array, "3 b m"]:
    """Where the patches of another grid over the same picture lie, row by row: between whole positions.

    Args: first: positions of the picture's first token. grid: its rows and columns. finer: those of the other grid.
    """
    places = [(np.arange(count) + 0.5) * size / count - 0.5 for size, count in zip(grid, finer, strict=True)]
    inside = np.stack([np.zeros(finer), *np.meshgrid(*places, indexing="ij")]).reshape(3, 1, -1)
    return first[..., None].astype(jnp.float32) + jnp.asarray(inside, jnp.float32)
