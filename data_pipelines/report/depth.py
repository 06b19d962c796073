"""Depth as colours, for people.

Axes: y x pixels.
"""

from collections.abc import Iterable

import matplotlib
import numpy as np

COLOURS = matplotlib.colormaps["viridis_r"]
"""Near is light."""


def range_of(depths: Iterable[np.ndarray]) -> tuple[float, float]:
    """The nearest and the farthest [y, x] of all, without what is not measured; 0, 0 where nothing is."""
    measured = [depth[_is_measured(depth)] for depth in depths]
    bounds = [(float(values.min()), float(values.max())) for values in measured if values.size]
    return (min(low for low, _ in bounds), max(high for _, high in bounds)) if bounds else (0.0, 0.0)


def coloured(depth: np.ndarray, low: float, high: float) -> np.ndarray:
    """[y, x] to uint8[y, x, 3]; black where nothing was measured."""
    measured = _is_measured(depth)
    shares = (np.where(measured, depth, low) - low) / (high - low or 1)
    picture = COLOURS(np.clip(shares, 0, 1), bytes=True)[..., :3]
    return np.where(measured[..., None], picture, np.uint8(0))


def _is_measured(depth: np.ndarray) -> np.ndarray:
    return np.isfinite(depth) & (depth > 0)
