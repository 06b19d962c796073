"""A part of a picture to the policy's size, aspect ratio not kept; then turned and mirrored where a sample asks for it.

Whoever deploys a policy repeats the default with `image.resize((width, height), Image.Resampling.BICUBIC)` on the RGB
picture; a picture that already has the size stays as it is (the filter would be the identity). `bilinear` is
torchvision's with antialiasing, half as dear; `fast` is bilinear on a JPEG that was decoded no larger than needed;
`nearest`, also of turns, is for depth, where a mean of two surfaces lies on neither.
"""

import dataclasses
import math
from typing import Literal

import numpy as np
from PIL import Image

from data_pipelines.transforms.geometry import UNCHANGED, WHOLE, Geometry

Filter = Literal["bicubic", "bilinear", "fast", "nearest"]
FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "fast": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}


@dataclasses.dataclass(frozen=True)
class Resize:
    height: int
    width: int
    filter: Filter = "bicubic"

    def __call__(self, picture: np.ndarray, geometry: Geometry = UNCHANGED) -> np.ndarray:
        """uint8[y, x, 3] to uint8[height, width, 3], or float32[y, x] to float32[height, width]."""
        y, x = picture.shape[:2]
        if geometry.box != WHOLE or (y, x) != (self.height, self.width):
            left, upper, right, lower = geometry.box
            box = (left * x, upper * y, right * x, lower * y)
            image = Image.fromarray(picture).resize((self.width, self.height), FILTERS[self.filter], box=box)
            picture = np.asarray(image)
        if geometry.degrees:
            turn = Image.Resampling.NEAREST if self.filter == "nearest" else Image.Resampling.BILINEAR
            picture = np.asarray(Image.fromarray(picture).rotate(geometry.degrees, turn))
        return picture[:, ::-1].copy() if geometry.mirrored else picture

    def smallest(self, geometry: Geometry) -> tuple[int, int] | None:
        """Height and width from which a whole picture may be decoded without being enlarged; None: its own."""
        if self.filter != "fast":
            return None
        left, upper, right, lower = geometry.box
        return math.ceil(self.height / (lower - upper)), math.ceil(self.width / (right - left))
