"""Random turn of a picture about its middle."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class RandomRotation:
    degrees: float

    def __call__(self, generator: np.random.Generator) -> float:
        """Degrees, uniform in +-."""
        return float(generator.uniform(-self.degrees, self.degrees))
