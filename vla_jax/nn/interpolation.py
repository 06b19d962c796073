"""Resampling of position tables and maps over a grid, as products with fixed matrices.

The definitions of `torch.nn.functional.interpolate`, which released vision transformers were run with; `jax.image`
has another bicubic kernel where nothing is antialiased (error 9e-2). Axes: r c rows and columns, d width.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Method = Literal["bilinear", "bilinear_corners", "bicubic", "bicubic_antialias"]
"""`bilinear_corners`: the outermost samples of both grids coincide (`align_corners=True`)."""


def resize_grid(
    grid: Float[Array, "*b r c d"], rows: int, columns: int, method: Method
) -> Float[Array, "*b rows columns d"]:
    """In float32; given in the grid's dtype."""
    vertical, horizontal = weights(grid.shape[-3], rows, method), weights(grid.shape[-2], columns, method)
    resized = jnp.einsum("vr,hc,...rcd->...vhd", vertical, horizontal, grid.astype(jnp.float32))
    return resized.astype(grid.dtype)


def weights(source: int, target: int, method: Method) -> Float[np.ndarray, "target source"]:
    """Row i: how the samples of an axis make up its i-th new one; rows sum to one."""
    if method == "bilinear_corners":
        corners = np.linspace(0, source - 1, target)
        lower = np.minimum(corners.astype(int), max(source - 2, 0))
        upper = np.minimum(lower + 1, source - 1)
        matrix = np.zeros((target, source))
        np.add.at(matrix, (np.arange(target), lower), 1 - (corners - lower))
        np.add.at(matrix, (np.arange(target), upper), corners - lower)
        return matrix.astype(np.float32)
    scale = source / target
    stretch = max(scale, 1.0) if method == "bicubic_antialias" else 1.0
    places = (np.arange(target) + 0.5) * scale - 0.5
    reach = int(np.ceil(2 * stretch)) + 1
    taps = np.floor(places).astype(int)[:, None] + np.arange(-reach, reach + 1)
    values = _KERNELS[method]((taps - places[:, None]) / stretch)
    if method == "bicubic_antialias":  # samples beyond the edge do not count; elsewhere the edge is repeated
        values = np.where((taps >= 0) & (taps < source), values, 0.0)
        values /= values.sum(axis=1, keepdims=True)
    matrix = np.zeros((target, source))
    np.add.at(matrix, (np.arange(target)[:, None], np.clip(taps, 0, source - 1)), values)
    return matrix.astype(np.float32)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys 1981 with parameter `a`."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


_KERNELS = {
    "bilinear": lambda x: np.maximum(1 - np.abs(x), 0.0),
    "bicubic": lambda x: _cubic(x, -0.75),
    "bicubic_antialias": lambda x: _cubic(x, -0.5),
}
