"""Stored depth to numbers: PNG of 8 or 16 bits, float32 in the four channels of a PNG (as TFDS does), plain tensors.

Numbers to metres. Axes: y x pixels.
"""

import dataclasses
import io
import zlib

import numpy as np
from PIL import Image

from data_pipelines.index.example import unpack_varints
from data_pipelines.transforms.decode import MAX_PIXELS


@dataclasses.dataclass(frozen=True)
class DecodeDepth:
    kind: str
    """Of the index: `image` or `array`."""
    shape: tuple[int, ...]
    dtype: str
    encoding: str = ""

    def __call__(self, data: bytes) -> np.ndarray:
        """[y, x] as stored, of `dtype`; ValueError where undecodable."""
        numbers = self._picture(data) if self.kind == "image" else self._tensor(data)
        if numbers.size != np.prod(self.shape):
            raise ValueError(f"{numbers.size} depths for a shape of {list(self.shape)}")
        return numbers.astype(self.dtype).reshape(self.shape[:2])

    def _picture(self, data: bytes) -> np.ndarray:
        try:
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise ValueError(f"a picture of {picture.height} x {picture.width} pixels")
                pixels = np.asarray(picture)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"an undecodable picture ({error})") from error
        return pixels.copy().view("<f4") if self.dtype == "float32" else pixels

    def _tensor(self, data: bytes) -> np.ndarray:
        if self.encoding:
            try:
                plain = zlib.decompress(data) if self.encoding == "zlib" else data
            except zlib.error as error:
                raise ValueError(f"undecodable zlib data ({error})") from error
            return np.frombuffer(plain, np.dtype(self.dtype).newbyteorder("<"))
        if np.issubdtype(self.dtype, np.floating):
            return np.frombuffer(data, "<f4")
        return unpack_varints(np.frombuffer(data, np.uint8))


@dataclasses.dataclass(frozen=True)
class ToMetres:
    metres: float
    """Of the stored number 1."""

    def __call__(self, stored: np.ndarray) -> np.ndarray:
        """float32[y, x]; 0 where nothing was measured: what is not a finite number above 0."""
        with np.errstate(over="ignore", invalid="ignore"):
            depth = (stored * np.float64(self.metres)).astype(np.float32)
            return np.where((depth > 0) & np.isfinite(depth), depth, np.float32(0))
