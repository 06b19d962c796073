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
