"""Red and blue exchanged (OpenCV's order, BGR, taken for RGB)."""

import dataclasses
import itertools
from array import array
from collections.abc import Iterator

import numpy as np

from data_pipelines.verification.check import Check
from data_pipelines.verification.episode import Episode, Place
from data_pipelines.verification.finding import Finding
from data_pipelines.verification.pictures import PALETTE
from data_pipelines.verification.subject import Subject

FEWEST_EPISODES = 3
LEVELS = 255
"""Palettes are held as uint8."""
COOL_SHARE, COOL_RATIO = 0.05, 4.0
NUM_TURNS = 20
CLEAR = 0.1
"""Mean log-likelihood ratio of a pixel from which an episode's palette is one way round rather than the other."""
NEIGHBOURS = 3
NUM_COMPARED = 1000
"""Episodes of a camera with which others are compared."""
ALIKE = 1.5
SMOOTHING = 0.02
BLOCK = 4096
"""Palettes that are made numbers of at a time."""


@dataclasses.dataclass
class _Palettes:
    """Of one camera, 71 bytes an episode, in order.

    Axes: e episodes, r rows and c columns of a palette; columns turned round: red and blue exchanged.
    """

    numbers: dict[Place, array] = dataclasses.field(default_factory=dict)
    """Of the episodes of each shard."""
    held: bytearray = dataclasses.field(default_factory=bytearray)

    def add(self, place: Place, number: int, palette: np.ndarray) -> None:
        self.numbers.setdefault(place, array("q")).append(number)
        self.held += np.round(palette * LEVELS).astype(np.uint8).tobytes()

    def merge(self, other: "_Palettes") -> None:
        """Args: other: of other shards."""
        self.numbers |= other.numbers
        self.held += other.held

    def episodes(self) -> Iterator[tuple[Place, int]]:
        return ((place, number) for place, numbers in self.numbers.items() for number in numbers)

    def exchanged(self) -> tuple[bool, np.ndarray]:
        """Whether all are, and which differ from the most: bool[e]."""
        palettes = np.frombuffer(self.held, np.uint8).reshape(-1, *PALETTE)
        turned = _turned(palettes)
        turned &= _fits(palettes, turned)
        usual = _mean(palettes, turned)
        columns = usual.mean(0) * len(usual)
        cool, warm = columns[:2].sum(), columns[-2:].sum()  # |red - blue| of 40 and more
        return bool(cool > COOL_SHARE and cool > COOL_RATIO * warm), turned


class ImageChannelsSwapped(Check):
    """An episode's pictures look like the other episodes' of the same camera with red and blue exchanged: (1) a pixel
    of its palette is exp(0.1) times likelier among the exchanged ones, on the average, and (2) exchanged back, its
    palette is as near to its three nearest as theirs are to one another, up to a half. Or a whole camera is
    exchanged: bluish pixels (blue 40 above red) are over 5 % and over four times as many as reddish ones, while real
    rooms, wood, skin and lamps are warm. A policy trained on BGR meets RGB at the robot (openpi#293).

    Limits: of a camera exchanged in half of its episodes or more, the smaller part is named unless the colours are
    clearly cold; a scene that is truly blue (cloth, sky, water) is taken for an exchanged one where a whole camera
    sees nothing else; grey and flat pictures, and cameras of fewer than three episodes, are not judged.
    """

    code, severity = "image_channels_swapped", "warning"

    def __init__(self) -> None:
        self._cameras: dict[str, _Palettes] = {}

    def of_episode(self, episode: Episode) -> Iterator[Finding]:
        for camera, looks in episode.looks.items():
            seen = [look.palette for look in looks if look.palette is not None]
            if seen:
                palettes = self._cameras.setdefault(camera, _Palettes())
                palettes.add(episode.place, episode.number, np.mean(seen, axis=0))
        yield from ()

    def merge(self, other: "ImageChannelsSwapped") -> None:
        for camera, more in other._cameras.items():
            self._cameras.setdefault(camera, _Palettes()).merge(more)

    def of_dataset(self, subject: Subject) -> Iterator[Finding]:
        for camera, palettes in self._cameras.items():
            if sum(map(len, palettes.numbers.values())) < FEWEST_EPISODES:
                continue
            all_exchanged, turned = palettes.exchanged()
            if all_exchanged:
                number = int((~turned).sum())
                yield self.finding(
                    f"{camera}: blue is far above red in {number} of {len(turned)} episodes; probably BGR"
                )
                continue
            for place, number in itertools.compress(palettes.episodes(), turned):
                message = f"{camera}: its colours are those of the other episodes with red and blue exchanged"
                yield self.finding(message, split=place.split, shard=place.shard, episode=number)


def _shares(palettes: np.ndarray) -> np.ndarray:
    """float64[e, r, c], each of sum 1."""
    return palettes / palettes.sum((1, 2), keepdims=True, dtype=np.float64)


def _blocks(palettes: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, len(palettes), BLOCK):
        block = slice(start, start + BLOCK)
        yield block, _shares(palettes[block])


def _mean(palettes: np.ndarray, turned: np.ndarray) -> np.ndarray:
    """float64[r, c]: of all, the turned ones turned back."""
    total = np.zeros(PALETTE)
    for block, shares in _blocks(palettes):
        total += np.where(turned[block, None, None], shares[:, :, ::-1], shares).sum(0)
    return total / len(palettes)


def _turned(palettes: np.ndarray) -> np.ndarray:
    """bool[e]: which are the other way round than the most. As in k-means, each joins the side that it fits."""
    turned = np.zeros(len(palettes), bool)
    likelihood = np.zeros(len(palettes))
    for _ in range(NUM_TURNS):
        usual = _mean(palettes, turned)
        usual += SMOOTHING / usual.size
        ratio = np.log(usual / usual[:, ::-1])
        for block, shares in _blocks(palettes):
            likelihood[block] = (shares * ratio).sum((1, 2))
        if np.array_equal(likelihood < 0, turned):
            break
        turned = likelihood < 0
    if turned.sum() * 2 > len(turned):
        turned, likelihood = ~turned, -likelihood
    return turned & (likelihood < -CLEAR)


def _fits(palettes: np.ndarray, turned: np.ndarray) -> np.ndarray:
    """bool[e]: whether a turned palette, turned back, lies among the others as these do among themselves."""
    fits = np.zeros(len(palettes), bool)
    others = np.flatnonzero(~turned)
    if not turned.any() or len(others) <= NEIGHBOURS:
        return turned & (len(others) > 1)
    chosen = np.linspace(0, len(others) - 1, min(len(others), NUM_COMPARED)).astype(int)
    compared = _shares(palettes[others[chosen]])
    usual = [np.sort(_distance(palette, compared))[NEIGHBOURS] for palette in compared]  # the nearest is itself
    limit = ALIKE * np.quantile(usual, 0.95)
    for place in np.flatnonzero(turned):
        (palette,) = _shares(palettes[place : place + 1, :, ::-1])
        fits[place] = np.sort(_distance(palette, compared))[NEIGHBOURS - 1] <= limit
    return fits


def _distance(palette: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.abs(others - palette).sum((1, 2))
