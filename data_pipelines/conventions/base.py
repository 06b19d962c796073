"""Places of a mobile base, x, y in metres and yaw in radians, and its motions in its own frame: x ahead, y left.

Axes: time.
"""

import numpy as np


def in_own_frame(displacement: np.ndarray, yaw_radians: np.ndarray) -> np.ndarray:
    """Args: displacement: [time, 2] in the frame that `yaw_radians` [time] is measured in."""
    (ahead, left), cosine, sine = displacement.T, np.cos(yaw_radians), np.sin(yaw_radians)
    return np.stack([cosine * ahead + sine * left, cosine * left - sine * ahead], axis=1)


def motion_to_next(base: np.ndarray) -> np.ndarray:
    """From each place [time, 3] to the next, the turn in [-pi, pi); none at the last step."""
    change = np.concatenate([np.diff(base, axis=0), np.zeros_like(base[-1:])])
    turn = (change[:, 2:] + np.pi) % (2 * np.pi) - np.pi
    return np.concatenate([in_own_frame(change[:, :2], base[:, 2]), turn], axis=1).astype(np.float32)
