"""What is seen of a picture, and which pictures are worth decoding. Axes: t steps."""

import dataclasses
from collections.abc import Callable

import numpy as np

from data_pipelines.transforms.decode import Decode

SAMPLED = 8
"""Pictures decoded of a camera and episode: the first, the last, evenly between."""
BLACK = 10
"""No channel of any pixel of a black picture is above it, of 255."""
JPEG_END, PNG_END = b"\xff\xd9", b"IEND\xaeB`\x82"
FLAT = 8
"""Standard deviation of brightness below which a picture has no content that colours could be judged by."""
RED_BLUE = np.array([-80, -40, -16, 16, 40, 80])
GREEN = np.array([-20, 20])
NUM_BRIGHT = 3
PALETTE = (NUM_BRIGHT * (len(GREEN) + 1), len(RED_BLUE) + 1)
PALETTE_PIXELS = 32
"""A side, at most: a grid of pixels is enough for a histogram."""


@dataclasses.dataclass(frozen=True)
class Look:
    step: int
    error: str = ""
    """Why it cannot be decoded."""
    brightest: int = 0
    palette: np.ndarray | None = None
    """float64[PALETTE], sums to 1: a histogram of (brightness and greenness, red minus blue), so that red and blue
    exchanged is the second axis turned round. None where the picture is flat.
    """

    @property
    def is_black(self) -> bool:
        return not self.error and self.brightest <= BLACK


def worth_decoding(lengths: np.ndarray, picture: Callable[[int], bytes], *, decode_all: bool) -> list[int]:
    """The sample, the smallest, and every picture without an end mark or of less than half the usual bytes.

    Args:
        lengths: int64[t] in bytes; there is no picture where it is 0.
        picture: The bytes at a step.
        decode_all: All that there are.
    """
    there = np.flatnonzero(lengths)
    if decode_all or len(there) <= SAMPLED:
        return there.tolist()
    chosen = set(there[np.linspace(0, len(there) - 1, SAMPLED).round().astype(int)].tolist())
    chosen.add(int(there[lengths[there].argmin()]))
    short = lengths < np.median(lengths[there]) / 2
    return sorted(chosen | {step for step in there.tolist() if short[step] or not _is_complete(picture(step))})


def look_at(data: bytes, step: int) -> Look:
    try:
        pixels = Decode()(data, np.zeros(0, np.uint8))
    except ValueError as error:
        return Look(step, error=str(error))
    return Look(step, brightest=int(pixels.max(initial=0)), palette=_palette(pixels))


def _is_complete(data: bytes) -> bool:
    return data.endswith(JPEG_END if data[:2] == b"\xff\xd8" else PNG_END)


def _palette(pixels: np.ndarray) -> np.ndarray | None:
    stride = max(1, min(pixels.shape[:2]) // PALETTE_PIXELS)
    red, green, blue = pixels[::stride, ::stride].reshape(-1, 3).T.astype(np.int32)
    bright = (red + green + blue) // 3
    if bright.std() < FLAT:
        return None
    rows = bright * NUM_BRIGHT // 256 * (len(GREEN) + 1) + np.digitize(green - (red + blue) // 2, GREEN)
    # symmetric: a pixel and its exchanged one fall into mirrored bins
    difference = red - blue
    columns = len(RED_BLUE) // 2 + np.sign(difference) * np.digitize(np.abs(difference), RED_BLUE[3:])
    counts = np.bincount(rows * PALETTE[1] + columns, minlength=PALETTE[0] * PALETTE[1])
    return (counts / counts.sum()).reshape(PALETTE)
