"""What is done to the place of pixels, the same for every frame of a window: cut, scaled, turned, mirrored.

In this order, so that a turn is one in the picture as the policy sees it. `resize.py` applies it to pictures,
`boxes.py` to boxes. Axes: n boxes.
"""

import dataclasses
import math

import numpy as np

Box = tuple[float, float, float, float]
"""Left, upper, right, lower, in shares of the picture."""
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Geometry:
    box: Box = WHOLE
    """The part that is kept."""
    degrees: float = 0.0
    """Turn about the middle, counterclockwise as one looks at the picture; corners become black."""
    mirrored: bool = False
    """Left and right exchanged."""

    def boxes(self, boxes: np.ndarray, height: int, width: int) -> np.ndarray:
        """Where float[n, 4] of the picture lie in the one of `height` x `width` pixels that the policy sees: the
        upright hull of a turned box; not clipped.
        """
        left, upper, right, lower = self.box
        edges = (boxes.reshape(-1, 2, 2) - (left, upper)) / (right - left, lower - upper)
        if self.degrees:
            x, y = edges[:, [0, 0, 1, 1], 0], edges[:, [0, 1, 0, 1], 1]
            x, y = (x - 0.5) * width, (y - 0.5) * height
            cos, sin = math.cos(math.radians(self.degrees)), math.sin(math.radians(self.degrees))
            turned = np.stack([(cos * x + sin * y) / width, (cos * y - sin * x) / height], axis=-1) + 0.5
            edges = np.stack([turned.min(1), turned.max(1)], axis=1)
        if self.mirrored:
            edges = np.stack([edges[..., 0][:, ::-1], edges[..., 1]], axis=-1) * (-1, 1) + (1, 0)
        return edges.reshape(-1, 4)


UNCHANGED = Geometry()
