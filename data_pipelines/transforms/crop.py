"""Random resized crop: draws the part of a picture that is kept; `resize.py` cuts and scales in one step."""

import dataclasses
import math

import numpy as np

from data_pipelines.transforms.geometry import Box


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    scale: tuple[float, float]
    """Share of the area."""
    ratio: tuple[float, float]
    """Width over height relative to the picture's."""

    def __call__(self, generator: np.random.Generator) -> Box:
        area = generator.uniform(*self.scale)
        ratio = math.exp(generator.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
        width, height = min(1.0, math.sqrt(area * ratio)), min(1.0, math.sqrt(area / ratio))
        left, upper = generator.uniform(0, 1 - width), generator.uniform(0, 1 - height)
        return left, upper, left + width, upper + height
