"""Gripper commands of several datasets, as absolute openness: 1 open, 0 closed.

Axes: time. The rules are those of Octo's and OpenVLA's standardisation, so that published runs can be reproduced.
"""

import numpy as np


def binarize(openness: np.ndarray) -> np.ndarray:
    """Continuous openness to 0 and 1: above 0.95 open, below 0.05 closed, between: what it is on the way to.

    A command on its way at the episode's end keeps its last value, as in Octo.
    """
    decided = (openness > 0.95) | (openness < 0.05)
    following = np.where(decided, np.arange(len(openness)), len(openness))
    following = np.minimum.accumulate(following[::-1])[::-1]
    values = np.append((openness > 0.95).astype(np.float32), openness[-1:].astype(np.float32))
    return values[following]


def integrate_closing(change: np.ndarray) -> np.ndarray:
    """Relative commands (above 0.1 close, below -0.1 open, between: stay) to absolute openness.

    Before its first command the gripper is in the opposite state; without any command it is open.
    """
    moves = np.where(change > 0.1, 0.0, np.where(change < -0.1, 1.0, np.nan)).astype(np.float32)
    given = np.flatnonzero(~np.isnan(moves))
    if not len(given):
        return np.ones(len(change), np.float32)
    latest = np.maximum.accumulate(np.where(np.isnan(moves), -1, np.arange(len(change))))
    return np.where(latest < 0, 1 - moves[given[0]], moves[np.maximum(latest, 0)]).astype(np.float32)


def integrate_opening(change: np.ndarray) -> np.ndarray:
    """As `integrate_closing` of commands of the other sign: above 0.1 open, below -0.1 close."""
    return integrate_closing(-change)


def clip_openness(openness: np.ndarray) -> np.ndarray:
    """Openness that leaves 0..1 by noise, kept in it. NaN stays."""
    return np.clip(openness, 0.0, 1.0).astype(np.float32)


def invert(closedness: np.ndarray) -> np.ndarray:
    """Closedness (1 closed, 0 open; clipped to 0..1) to openness."""
    return clip_openness(1.0 - np.asarray(closedness, np.float32))


def from_signed(command: np.ndarray, *, opens: int) -> np.ndarray:
    """Commands -1..1 to openness, linearly. Args: opens: the sign, 1 or -1, that opens."""
    return clip_openness((1.0 + opens * np.asarray(command, np.float32)) / 2)


def from_width(width: np.ndarray, *, widest: float) -> np.ndarray:
    """The gap between the fingers to openness. Args: widest: the fully open gap, in the same unit."""
    return clip_openness(np.asarray(width, np.float32) / widest)


def open_or_closed(openness: np.ndarray, *, threshold: float = 0.5) -> np.ndarray:
    """1 above the threshold, else 0; NaN stays."""
    return np.where(np.isnan(openness), np.nan, openness > threshold).astype(np.float32)
