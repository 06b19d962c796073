"""Rotary positions: queries and keys turned by angles that their positions give (Su et al. 2021).

The half-rotation layout of Hugging Face weights: channel i turns with channel i + f / 2, not with its neighbour.
Axes: b batch, n positions, h heads, f head width, k = f / 2 frequencies, r rows and c columns of a grid.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Real


class Rotation(NamedTuple):
    """Both halves of a head have the same angles; computed and kept in float32."""

    cos: Float[Array, "*b n f"]
    sin: Float[Array, "*b n f"]


def rotate(x: Float[Array, "b n h f"], rotation: Rotation) -> Float[Array, "b n h f"]:
    cos, sin = (angle[..., :, None, :] for angle in rotation)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    half = x.shape[-1] // 2
    turned = [first * cos[..., :half] - second * sin[..., :half], second * cos[..., half:] + first * sin[..., half:]]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def rotation(angles: Float[Array, "*b n k"]) -> Rotation:
    """Of the angles of one half."""
    both = jnp.concatenate([angles, angles], axis=-1)
    return Rotation(jnp.cos(both), jnp.sin(both))


def frequencies(head_width: int, theta: float) -> Float[np.ndarray, "k"]:
    """theta^(-2 i / f), float32 as published code computes them."""
    return _inverse_powers(theta, np.arange(0, head_width, 2, dtype=np.float32) / np.float32(head_width))


def _inverse_powers(theta: float, exponents: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
    """As torch rounds them; numpy's float32 power is a bit off in one of five, 3e-5 of a cosine at position 4000."""
    return np.float32(1) / (np.float64(theta) ** exponents.astype(np.float64)).astype(np.float32)


def text_rotation(positions: Int[Array, "b n"], head_width: int, theta: float) -> Rotation:
    return rotation(positions[..., None].astype(jnp.float32) * frequencies(head_width, theta))


def multimodal_rotation(
    positions: Real[Array, "3 b n"], head_width: int, theta: float, sections: Sequence[int]
) -> Rotation:
    """Interleaved M-RoPE (Qwen3-VL): each frequency turns by the position in time, height or width.

    `positions` are time, height and width of each token, all three equal for text; they need not be whole numbers.
    `sections` says how many frequencies belong to each; they sum to f / 2. Height has frequencies 1, 4, 7, ... below
    three times its section, width 2, 5, 8, ...; time has the others.
    """
    assert sum(sections) == head_width // 2, f"sections {sections} do not sum to half of head width {head_width}"
    axis = np.zeros(head_width // 2, int)
    for number in (1, 2):
        axis[number : 3 * sections[number] : 3] = number
    angles = positions.astype(jnp.float32)[..., None] * frequencies(head_width, theta)
    return rotation(jnp.where(axis == 1, angles[1], jnp.where(axis == 2, angles[2], angles[0])))


def axial_rotation(rows: int, columns: int, head_width: int, theta: float) -> Rotation:
    """By the patch centre's row, then column, each in -1..1 over the grid (DINOv3). Row-major; [r * c, f]."""
    frequency = _inverse_powers(theta, np.arange(0, 1, 4 / head_width, dtype=np.float32))
    centres = [2 * (np.arange(0.5, size, dtype=np.float32) / np.float32(size)) - 1 for size in (rows, columns)]
    places = np.stack(np.meshgrid(*centres, indexing="ij"), axis=-1).reshape(-1, 2)
    return rotation(jnp.asarray((2 * np.pi * places[:, :, None] * frequency).reshape(len(places), -1), jnp.float32))


def grid_rotation(rows: int, columns: int, head_width: int, theta: float) -> Rotation:
    """By the patch's row, then column, counted from 0 (Qwen's vision transformers). Row-major; [r * c, f]."""
    places = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).reshape(-1, 2, 1)
    angles = places.astype(np.float32) * frequencies(head_width // 2, theta)
    return rotation(jnp.asarray(angles.reshape(len(places), -1)))


def with_still_prefix(turning: Rotation, length: int) -> Rotation:
    """`length` tokens that are not turned stand before the others."""
    still = jnp.zeros((length, turning.cos.shape[-1]), jnp.float32)
    return Rotation(jnp.concatenate([still + 1, turning.cos]), jnp.concatenate([still, turning.sin]))
