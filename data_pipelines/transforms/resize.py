"""A part of a picture to the policy's size: Pillow's bicubic filter, antialiased, aspect ratio not kept.

Whoever deploys a policy repeats it with `image.resize((width, height), Image.Resampling.BICUBIC)` on the RGB picture;
a picture that already has the size stays as it is (the filter would be the identity).
"""

import dataclasses

import numpy as np
from PIL import Image

Box = tuple[float, float, float, float]
"""Left, upper, right, lower, in shares of the picture."""
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Resize:
    height: int
    width: int

    def __call__(self, picture: np.ndarray, box: Box = WHOLE) -> np.ndarray:
        """uint8[y, x, 3] to uint8[height, width, 3]."""
        y, x, _ = picture.shape
        if box == WHOLE and (y, x) == (self.height, self.width):
            return picture
        pixels = (box[0] * x, box[1] * y, box[2] * x, box[3] * y)
        image = Image.fromarray(picture).resize((self.width, self.height), Image.Resampling.BICUBIC, box=pixels)
        return np.asarray(image)
