"""Encoded picture to RGB: JPEG by simplejpeg, exact integer DCT (as TF's INTEGER_ACCURATE); PNG by Pillow."""

import dataclasses
import io
from collections.abc import Iterable

import numpy as np
import simplejpeg
from PIL import Image

MAX_PIXELS = 1 << 26
"""A header that claims more is damaged."""


def largest(sizes: Iterable[tuple[int, int] | None]) -> tuple[int, int] | None:
    """The height and width that suffice for all; None, a picture's own, where one asks for that."""
    known = []
    for size in sizes:
        if size is None:
            return None
        known.append(size)
    return max(height for height, _ in known), max(width for _, width in known)


@dataclasses.dataclass(frozen=True)
class Decode:
    smallest: tuple[int, int] | None = None
    """A JPEG may be decoded at the least of libjpeg's sizes (eighths of its own) with this height and width."""

    def __call__(self, data: bytes, out: np.ndarray) -> np.ndarray:
        """uint8[y, x, 3]; written into `out` where it has the picture's own size. ValueError where undecodable."""
        if data[:2] == b"\xff\xd8":
            return self._jpeg(data, out)
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            try:
                with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
                    if picture.width * picture.height > MAX_PIXELS:
                        raise ValueError(f"a PNG of {picture.height} x {picture.width} pixels")
                    return np.asarray(picture.convert("RGB"))
            except (OSError, SyntaxError, Image.DecompressionBombError) as error:
                raise ValueError(f"an undecodable PNG ({error})") from error
        raise ValueError(f"{len(data)} bytes that are neither JPEG nor PNG")

    def _jpeg(self, data: bytes, out: np.ndarray) -> np.ndarray:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        if height * width > MAX_PIXELS:
            raise ValueError(f"a JPEG of {height} x {width} pixels")
        if self.smallest is not None and self.smallest[0] < height and self.smallest[1] < width:
            return simplejpeg.decode_jpeg(data, "RGB", min_height=self.smallest[0], min_width=self.smallest[1])
        return simplejpeg.decode_jpeg(data, "RGB", buffer=out if out.shape == (height, width, 3) else None)
