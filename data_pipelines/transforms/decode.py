"""Encoded picture to RGB: JPEG by simplejpeg, exact integer DCT (as TF's INTEGER_ACCURATE); PNG by Pillow."""

import dataclasses
import io

import numpy as np
import simplejpeg
from PIL import Image

MAX_PIXELS = 1 << 26
"""A header that claims more is damaged."""


@dataclasses.dataclass(frozen=True)
class Decode:
    def __call__(self, data: bytes, out: np.ndarray) -> np.ndarray:
        """uint8[y, x, 3]; written into `out` where it has the picture's own size. ValueError where undecodable."""
        if data[:2] == b"\xff\xd8":
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
            if height * width > MAX_PIXELS:
                raise ValueError(f"a JPEG of {height} x {width} pixels")
            buffer = out if out.shape == (height, width, 3) else None
            return simplejpeg.decode_jpeg(data, "RGB", buffer=buffer)
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            try:
                with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
                    if picture.width * picture.height > MAX_PIXELS:
                        raise ValueError(f"a PNG of {picture.height} x {picture.width} pixels")
                    return np.asarray(picture.convert("RGB"))
            except (OSError, SyntaxError, Image.DecompressionBombError) as error:
                raise ValueError(f"an undecodable PNG ({error})") from error
        raise ValueError(f"{len(data)} bytes that are neither JPEG nor PNG")
