"""Red and blue exchanged (OpenCV's order, BGR, taken for RGB)."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from data_pipelines.verification.check import Check
from data_pipelines.verification.episode import Episode, Place
from data_pipelines.verification.finding import Finding
from data_pipelines.verification.subject import Subject

FEWEST_EPISODES = 3
LEVELS = 255
"""Palettes are held as uint8, 63 bytes an episode and camera."""
COOL_SHARE, COOL_RATIO = 0.05, 4.0
NUM_TURNS = 20
CLEAR = 0.1
"""Mean log-likelihood ratio of a pixel from which an episode's palette is one way round rather than the other."""
NEIGHBOURS = 3
NUM_COMPARED = 1000
"""Episodes of a camera with which others are compared."""
ALIKE = 1.5
SMOOTHING = 0.02


@dataclasses.dataclass
class _Palettes:
    """Of one camera. Axes: e episodes, r rows and c columns of a palette; columns turned round: red, blue exchanged."""

    places: list[tuple[Place, int]] = dataclasses.field(default_factory=list)
    held: list[np.ndarray] = dataclasses.field(default_factory=list)

    def exchanged(self) -> tuple[bool, np.ndarray]:
        """Whether all are, and which differ from the most: bool[e]."""
        palettes = np.stack(self.held).astype(np.float64)
        palettes /= palettes.sum((1, 2), keepdims=True)
        turned = _turned(palettes)
        turned &= _fits(palettes, turned)
        upright = np.where(turned[:, None, None], palettes[:, :, ::-1], palettes)
        columns = upright.mean((0, 1)) * upright.shape[1]
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
                palettes.places.append((episode.place, episode.number))
                palettes.held.append(np.round(np.mean(seen, axis=0) * LEVELS).astype(np.uint8))
        yield from ()

    def merge(self, other: "ImageChannelsSwapped") -> None:
        for camera, more in other._cameras.items():
            palettes = self._cameras.setdefault(camera, _Palettes())
            palettes.places += more.places
            palettes.held += more.held

    def of_dataset(self, subject: Subject) -> Iterator[Finding]:
        for camera, palettes in self._cameras.items():
            if len(palettes.held) < FEWEST_EPISODES:
                continue
            all_exchanged, turned = palettes.exchanged()
            if all_exchanged:
                number = int((~turned).sum())
                yield self.finding(
                    f"{camera}: blue is far above red in {number} of {len(turned)} episodes; probably BGR"
                )
                continue
            for place, number in (palettes.places[i] for i in np.flatnonzero(turned)):
                message = f"{camera}: its colours are those of the other episodes with red and blue exchanged"
                yield self.finding(message, split=place.split, shard=place.shard, episode=number)


def _turned(palettes: np.ndarray) -> np.ndarray:
    """bool[e]: which are the other way round than the most. As in k-means, each joins the side that it fits."""
    turned = np.zeros(len(palettes), bool)
    likelihood = np.zeros(len(palettes))
    for _ in range(NUM_TURNS):
        upright = np.where(turned[:, None, None], palettes[:, :, ::-1], palettes)
        usual = upright.mean(0) + SMOOTHING / upright[0].size
        likelihood = (palettes * np.log(usual / usual[:, ::-1])).sum((1, 2))
        if np.array_equal(likelihood < 0, turned):
            break
        turned = likelihood < 0
    if turned.sum() * 2 > len(turned):
        turned, likelihood = ~turned, -likelihood
    return turned & (likelihood < -CLEAR)


def _fits(palettes: np.ndarray, turned: np.ndarray) -> np.ndarray:
    """bool[e]: whether a turned palette, turned back, lies among the others as these do among themselves."""
    fits = np.zeros(len(palettes), bool)
    others = palettes[~turned]
    if not turned.any() or len(others) <= NEIGHBOURS:
        return turned & (len(others) > 1)
    chosen = others[np.linspace(0, len(others) - 1, min(len(others), NUM_COMPARED)).astype(int)]
    usual = [np.sort(_distance(palette, chosen))[NEIGHBOURS] for palette in chosen]  # the nearest is itself
    limit = ALIKE * np.quantile(usual, 0.95)
    for place in np.flatnonzero(turned):
        fits[place] = np.sort(_distance(palettes[place][:, ::-1], chosen))[NEIGHBOURS - 1] <= limit
    return fits


def _distance(palette: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.abs(others - palette).sum((1, 2))
