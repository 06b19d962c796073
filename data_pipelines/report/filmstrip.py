"""Pictures along a few episodes, small enough for a page, and the numbers that go with them.

Axes: t steps, y x pixels.
"""

import base64
import dataclasses
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from data_pipelines.depths import read_depth
from data_pipelines.index.shard_index import STEPS
from data_pipelines.index.sidecar import Index
from data_pipelines.reading import RangeReader, Reader
from data_pipelines.report.depth import coloured, range_of
from data_pipelines.report.language import shown as shown_text
from data_pipelines.report.motion import targets
from data_pipelines.source import Source
from data_pipelines.spec import Depth
from data_pipelines.transforms.decode import Decode
from vla_jax.types import InputError

ANY_SIZE = np.zeros((0, 0, 3), np.uint8)


class Detail(NamedTuple):
    num_episodes: int
    num_cameras: int
    num_pictures: int
    """Of a strip."""
    height: int
    num_points: int
    """Of a curve, at most."""


DETAILS = (
    Detail(3, 4, 8, 120, 400),
    Detail(3, 2, 8, 96, 200),
    Detail(2, 2, 8, 80, 100),
    Detail(1, 2, 8, 64, 100),
    Detail(1, 1, 6, 48, 60),
    Detail(1, 0, 6, 0, 30),
)
"""From the finest on: the first that fits is taken."""


@dataclasses.dataclass(frozen=True)
class Curve:
    name: str
    values: np.ndarray
    """float[t]; NaN where there is none."""


@dataclasses.dataclass(frozen=True)
class Panel:
    """Curves on one scale."""

    unit: str
    curves: tuple[Curve, ...]
    most_points: int = 400

    @property
    def about_means(self) -> bool:
        """Whether each is drawn about its own mean: they vary little beside how far they lie apart."""
        spans = [np.ptp(values) for curve in self.curves if len(values := curve.values[np.isfinite(curve.values)])]
        return len(spans) > 1 and 4 * max(spans) < np.ptp(self._finite([curve.values for curve in self.curves]))

    @property
    def drawn(self) -> list[np.ndarray]:
        """float[t] of each curve."""
        values = [curve.values for curve in self.curves]
        if not self.about_means:
            return values
        return [one - self._finite([one]).mean() if np.isfinite(one).any() else one for one in values]

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and highest that is shown."""
        values = self._finite(self.drawn)
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        if self.unit == "openness":
            low, high = min(low, 0.0), max(high, 1.0)
        return low, high

    @staticmethod
    def _finite(curves: list[np.ndarray]) -> np.ndarray:
        values = np.concatenate(curves)
        return values[np.isfinite(values)]


@dataclasses.dataclass(frozen=True)
class Strip:
    camera: str
    pictures: tuple[str | None, ...]
    """Data URIs; None where it cannot be decoded."""


@dataclasses.dataclass(frozen=True)
class EpisodeFilm:
    number: int
    num_steps: int
    instruction: str
    steps: tuple[int, ...]
    """Those of the pictures, evenly apart, the first and the last among them."""
    strips: tuple[Strip, ...]
    panels: tuple[Panel, ...]

    @property
    def num_bytes(self) -> int:
        """Of the page, about."""
        pictures = [len(picture or "") + 100 for strip in self.strips for picture in strip.pictures]
        curves = [10 * min(len(c.values), panel.most_points) + 120 for panel in self.panels for c in panel.curves]
        return 1500 + 500 * len(self.panels) + sum(pictures) + sum(curves)


@dataclasses.dataclass(frozen=True)
class Camera:
    name: str
    key: str
    """Of features.json."""
    is_used: bool
    """The SPEC names it; those that it does not are shown along one episode only."""


class FilmMaker:
    def __init__(
        self,
        index: Index,
        cameras: tuple[Camera, ...],
        languages: list[np.ndarray],
        source: Source | None,
        depths: dict[str, Depth] | None = None,
    ):
        """Args: depths: by camera slot."""
        self.index, self.cameras, self.languages, self.source = index, cameras, languages, source
        self.reader = RangeReader(index)
        self.depths = depths or {}

    def films(self, most_bytes: int) -> tuple[EpisodeFilm, ...]:
        """Of as many episodes, and as large, as `most_bytes` of a page allow; none if not even one fits."""
        used = tuple(camera for camera in self.cameras if camera.is_used)
        for detail in DETAILS:
            shown = [self.cameras] + [used] * (detail.num_episodes - 1)
            episodes = zip(self._episodes(detail.num_episodes), shown)
            films = tuple(self._film(number, cameras, detail) for number, cameras in episodes)
            if sum(film.num_bytes for film in films) <= most_bytes:
                return films
        return ()

    def _episodes(self, count: int) -> list[int]:
        """Spread over the split; those with steps."""
        filled = np.flatnonzero(self.index.episodes[:, 4])
        places = (np.arange(count) + 0.5) / count * len(filled)
        return np.unique(filled[places.astype(np.int64)]).tolist() if len(filled) else []

    def _film(self, number: int, cameras: tuple[Camera, ...], detail: Detail) -> EpisodeFilm:
        first, end = self.index.first_step[number : number + 2].tolist()
        count = min(detail.num_pictures, end - first)
        steps = np.rint(np.linspace(0, end - first - 1, count)).astype(int).tolist()
        strips = [
            Strip(camera.name, tuple(self._picture(camera.key, first + step, detail.height) for step in steps))
            for camera in cameras[: detail.num_cameras]
        ]
        rows = [first + step for step in steps]
        depths = list(self.depths.items())[: detail.num_cameras]
        strips += [self._depth_strip(slot, depth, rows, detail.height) for slot, depth in depths]
        texts = [self.index.texts[column[first]] for column in self.languages]
        instruction = shown_text(next(filter(None, texts), ""))
        return EpisodeFilm(
            number, end - first, instruction, tuple(steps), tuple(strips), self._panels(first, end, detail.num_points)
        )

    def _panels(self, first: int, end: int, most_points: int) -> tuple[Panel, ...]:
        """The target of each step, a panel for each run of dimensions of one unit."""
        if self.source is None:
            return ()
        values = targets(self.source, np.arange(first, end), 1)[:, 0]
        panels: list[Panel] = []
        for number, dimension in enumerate(self.source.requirements.action_space.dimensions):
            if not self.source.available[number]:
                continue
            curve = Curve(dimension.name, values[:, number])
            if panels and panels[-1].unit == dimension.unit:
                panels[-1] = Panel(dimension.unit, (*panels[-1].curves, curve), most_points)
            else:
                panels.append(Panel(dimension.unit, (curve,), most_points))
        return tuple(panels)

    def _depth_strip(self, slot: str, depth: Depth, rows: list[int], height: int) -> Strip:
        """In colours that span what was measured in these pictures."""
        stored = [self._depth(STEPS + depth.key, row) for row in rows]
        low, high = range_of(numbers for numbers in stored if numbers is not None)
        pictures = [None if numbers is None else jpeg_uri(coloured(numbers, low, high), height) for numbers in stored]
        unit, scale = ("m", depth.metres) if depth.metres is not None else ("as stored", 1.0)
        return Strip(f"{slot} depth, {low * scale:.3g} to {high * scale:.3g} {unit}", tuple(pictures))

    def _depth(self, key: str, row: int) -> np.ndarray | None:
        try:
            return read_depth(self.index, self.reader, key, row)
        except (ValueError, InputError):
            return None

    def _picture(self, key: str, row: int, height: int) -> str | None:
        try:
            return jpeg_uri(read_picture(self.index, self.reader, key, row), height)
        except (ValueError, InputError):
            return None


def read_picture(index: Index, reader: Reader, key: str, row: int) -> np.ndarray:
    """uint8[y, x, 3] as stored; ValueError where undecodable. Args: key: of features.json."""
    offset, length = map(int, index.column(key, "image")[row])
    return Decode()(reader.read(row, offset, length), ANY_SIZE)


def jpeg_uri(picture: np.ndarray, height: int) -> str:
    """Args: picture: uint8[y, x, 3]; height: in pixels, at most."""
    image = Image.fromarray(picture)
    image.thumbnail((3 * height, height), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
