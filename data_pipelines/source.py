"""One dataset of a mixture, opened for one policy: windows of steps to model-ready arrays.

Axes: n samples, w window, h horizon, a action, p proprio. Rows count the steps of all episodes in order.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from data_pipelines.boxes import Boxes, open_boxes
from data_pipelines.depths import depth_spans, known_depths, read_depth, warn_of_masked
from data_pipelines.discovery import Dataset, commanded, find_action_space, find_dataset
from data_pipelines.index.dataset_directory import DatasetDirectory
from data_pipelines.index.shard_index import STEPS
from data_pipelines.index.sidecar import Index, open_index
from data_pipelines.normalization import Normalizer, normalizer
from data_pipelines.pools import EpisodeOrder, lanes_of
from data_pipelines.reading import RangeReader, Reader
from data_pipelines.schema import Trajectory
from data_pipelines.statistics import DatasetStatistics, open_statistics
from data_pipelines.storage import Location
from data_pipelines.table import Table, open_table
from data_pipelines.trajectories import Trajectories
from data_pipelines.transforms.chunk import Chunk
from data_pipelines.transforms.decode import Decode, largest
from data_pipelines.transforms.depth import ToMetres
from data_pipelines.transforms.geometry import Geometry
from data_pipelines.transforms.no_op import NoOps, can_tell
from data_pipelines.transforms.resize import Resize
from data_pipelines.transforms.window import Window
from vla_jax.types import CameraRequirement, DataRequirements, DepthRequirement, InputError

PICTURE = "camera "
"""How the reason of a damaged picture begins."""
LOG = logging.getLogger(__name__)


class BadRecordError(Exception):
    """A record that cannot be used: a damaged picture, a number that is not finite, a text that is not UTF-8."""

    def __init__(self, row: int, offset: int, reason: str):
        super().__init__(reason)
        self.row, self.offset, self.reason = row, offset, reason


@dataclasses.dataclass(frozen=True)
class Source:
    dataset: Dataset
    index: Index
    table: Table
    requirements: DataRequirements
    reader: Reader
    """Of the pictures' bytes."""
    skip_unlabeled: bool = False
    no_ops: NoOps | None = None
    """Which steps are not sampled because the robot is told to do nothing; None: all are."""
    boxes: Boxes | None = None

    @property
    def name(self) -> str:
        return self.dataset.spec.name

    @functools.cached_property
    def form(self) -> ModuleType:
        return find_action_space(self.requirements.action_space.form)

    @functools.cached_property
    def columns(self) -> Trajectory:
        """Those that the action space reads, and `finite`."""
        optional = [key for key in getattr(self.form, "OPTIONAL", ()) if key in self.table.columns]
        return {key: self.table.columns[key] for key in (*self.form.REQUIRED, *optional, "finite")}

    @functools.cached_property
    def available(self) -> np.ndarray:
        """bool[a]: the dimensions of the action that the dataset commands."""
        return commanded(self.name, self.requirements.action_space, self.columns)

    @functools.cached_property
    def trajectories(self) -> Trajectories:
        return Trajectories(self.index.first_step, self.columns[self.form.VALID])

    @functools.cached_property
    def window(self) -> Window:
        return Window(self.requirements.window, self.requirements.window_anchor)

    @functools.cached_property
    def anchors(self) -> np.ndarray:
        """int64[num_windows]: the rows that may be sampled, rising."""
        anchors = self.trajectories.windows(self.window)
        if self.skip_unlabeled:
            anchors = anchors[self.is_labeled[anchors]]
        return anchors[~self.is_no_op[anchors]] if self.no_ops else anchors

    def windows(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The sampled steps int64[n] of windows int64[n], and their rows int64[n, w] and mask bool[n, w]."""
        anchors = self.anchors[numbers]
        return anchors, *self.window(anchors, *self.trajectories.bounds(anchors))

    @functools.cached_property
    def is_no_op(self) -> np.ndarray:
        """bool[step]."""
        assert self.no_ops is not None
        return self.no_ops(self.table.columns, self.index.first_step)

    @property
    def is_labeled(self) -> np.ndarray:
        """bool[step]: where an instruction is given."""
        given = np.array([bool(text) for text in self.index.texts], bool)
        labeled = np.zeros(self.index.num_steps, bool)
        for column in self._languages:
            labeled |= given[column]
        return labeled

    def without_no_ops(self, no_ops: NoOps) -> "Source":
        """The same, but steps at which the robot is told to do nothing are not sampled; they are counted in the log."""
        if not can_tell(self.table.columns):
            raise InputError(
                f"dataset {self.name}: data.no_op_threshold is set, but it gives neither motions nor poses"
            )
        moving = dataclasses.replace(self, no_ops=no_ops)
        idle, every = len(self.anchors) - len(moving.anchors), len(self.anchors)
        LOG.warning("dataset %s: %d of %d windows begin with a no-op: not sampled", self.name, idle, every)
        if idle == every:
            raise InputError(f"dataset {self.name}: every step is a no-op by data.no_op_threshold={no_ops.threshold}")
        return moving

    def episode_order(self, seed: int, lanes: int, *, max_episodes: int, max_bytes: int) -> EpisodeOrder:
        """Args: max_episodes, max_bytes: of the groups that all lanes draw from at a time, together."""
        num_lanes = lanes_of(len(self.anchors), lanes)
        max_episodes, max_bytes = max(1, max_episodes // num_lanes), max_bytes // num_lanes
        num_bytes = np.asarray(self.index.episodes[:, 2])
        if (largest := int(num_bytes.max())) > max_bytes:
            LOG.warning(
                "dataset %s: its largest episode has %d bytes, data.pool_bytes leaves each lane %d for a pool of them: "
                "windows are hardly mixed; raise it",
                *(self.name, largest, max_bytes),
            )
        first_window = np.searchsorted(self.anchors, self.index.first_step)
        return EpisodeOrder(seed, first_window, num_bytes, max_episodes, max_bytes, num_lanes)

    @property
    def files(self) -> dict[str, str]:
        """Digests of what is read beside the dataset, by the place in the cache."""
        if self.boxes is None or self.requirements.boxes is None:
            return {}
        directory = self.index.directory
        folder = f"boxes-{self.requirements.boxes.slot}"
        return {f"{directory.name}/{directory.version}/{self.index.split}/{folder}": self.boxes.digest}

    def statistics(self, cache: Path, *, jobs: int = 1) -> DatasetStatistics:
        space = self.requirements.action_space
        return open_statistics(self.dataset, self.index, self.table, space, cache, jobs=jobs)

    def check_numbers(self, rows: np.ndarray) -> None:
        """BadRecordError where a number that the window or its targets rest on is not finite."""
        if self._is_finite:
            return
        first, (_, last) = int(rows[0]), self.trajectories.bounds(rows[-1:])
        end = min(int(rows[-1]) + self.requirements.reach, int(last[0]) + 1)
        used = self.columns["finite"][first:end]
        if not used.all():
            row = first + int(np.argmin(used))
            raw = self.table.columns["raw_finite"][row : int(last[0]) + 1]
            row += int(np.argmin(raw)) if not raw.all() else 0  # a target made from a later step is that step's fault
            raise BadRecordError(row, self.record_offset(row), "a number of its state or action is not finite")

    def read_images(
        self,
        cameras: Sequence[CameraRequirement],
        rows: np.ndarray,
        mask: np.ndarray,
        geometry: Geometry,
        outs: Sequence[np.ndarray],
    ) -> None:
        """Fills uint8 outs[camera][w, y, x, 3] where the mask holds; all of the window, or BadRecordError.

        Args: cameras: pictures of one source at different sizes; each is decoded once.
        """
        slot = cameras[0].source
        resizes = [Resize(camera.height, camera.width, camera.filter) for camera in cameras]
        spans, decode = self._cameras[slot], self.decoder(largest(resize.smallest(geometry) for resize in resizes))
        for step in np.flatnonzero(mask):
            row = int(rows[step])
            offset, length = map(int, spans[row])
            data = self.reader.read(row, offset, length)
            try:
                if len(data) != length:
                    raise ValueError(f"the shard ends after {len(data)} of its {length} bytes")
                picture = decode(data, outs[0][step])
                shown = [resize(picture, geometry) for resize in resizes]
            except ValueError as error:
                raise BadRecordError(row, offset, f"{PICTURE}{slot}: {error}") from error
            for out, resized in zip(outs, shown):
                if not np.shares_memory(resized, out[step]):
                    out[step] = resized

    def decoder(self, smallest: tuple[int, int] | None) -> Decode:
        return Decode(smallest)

    def read_depth(self, slot: str, row: int) -> np.ndarray:
        """[y, x] as stored; `spec.depths[slot]` says the unit. BadRecordError where undecodable."""
        key = STEPS + self.dataset.spec.depths[slot].key
        try:
            return read_depth(self.index, self.reader, key, row)
        except ValueError as error:
            offset = int(depth_spans(self.index, key)[row][0])
            raise BadRecordError(row, offset, f"{PICTURE}{slot}: depth: {error}") from error

    def read_metres(
        self, depth: DepthRequirement, rows: np.ndarray, mask: np.ndarray, geometry: Geometry, out: np.ndarray
    ) -> None:
        """Fills float32 out[w, y, x] where the mask holds; all of the window, or BadRecordError."""
        resize, to_metres = Resize(depth.height, depth.width, "nearest"), ToMetres(self._depths[depth.slot])
        for step in np.flatnonzero(mask):
            stored = self.read_depth(depth.slot, int(rows[step]))
            out[step] = to_metres(resize(stored.astype(np.float32), geometry))

    def has_depth(self, slot: str) -> bool:
        """In a known unit."""
        return slot in self._depths

    def has_camera(self, slot: str) -> bool:
        return slot in self._cameras

    def numbers(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Un-normalised proprio float32[n, p], action float32[n, h, a] and its mask bool[n, h] at n steps."""
        steps, ahead, mask = self.gather(rows, self.chunk)
        return self.form.proprio(steps), self.form.targets(steps, ahead), mask

    @functools.cached_property
    def chunk(self) -> Chunk:
        return Chunk(self.requirements.action_space.horizon, octo_compat=self.requirements.octo_compat)

    def targets(self, rows: np.ndarray, chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
        """Un-normalised action float32[n, h, a] and its mask bool[n, h] at n steps."""
        steps, ahead, mask = self.gather(rows, chunk)
        return self.form.targets(steps, ahead), mask

    def gather(self, rows: np.ndarray, chunk: Chunk) -> tuple[Trajectory, Trajectory, np.ndarray]:
        """Columns at n steps, those [n, h] of their chunks, and the chunks' mask bool[n, h]."""
        future, mask = self.trajectories.chunk(chunk, rows)
        steps = {key: column[rows] for key, column in self.columns.items()}
        return steps, {key: column[future] for key, column in self.columns.items()}, mask

    @functools.cached_property
    def layout(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Datasets of one layout can be made into actions together."""
        return tuple((key, column.shape[1:]) for key, column in self.columns.items())

    def text(self, row: int, generator: Callable[[], np.random.Generator] | None) -> str:
        """An instruction, drawn evenly among those given at the step (the first without a generator); "" if none.

        A generator is made only where there is a choice.
        """
        texts = self.index.texts
        given = [text for column in self._languages if (text := texts[column[row]])]
        if not given:
            return ""
        is_drawn = generator is not None and len(given) > 1
        text = given[int(generator().integers(len(given))) if is_drawn else 0]
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise BadRecordError(row, self.record_offset(row), "its instruction is not UTF-8")
        return text

    def normalizers(self, statistics: dict[str, Any]) -> tuple[Normalizer, Normalizer]:
        """Of actions and proprio."""
        space, where = self.requirements.action_space, f"statistics of {self.name}"
        return (
            normalizer(space.normalization, statistics["action"], space.dimensions, f"{where}: action", self.available),
            normalizer(space.normalization, statistics["proprio"], space.proprio, f"{where}: proprio"),
        )

    def episode_step(self, row: int) -> tuple[int, int]:
        episode = int(self.trajectories.episode(np.array([row]))[0])
        return episode, row - int(self.index.first_step[episode])

    def shard(self, row: int) -> Location:
        return self.index.shards[int(self._record(row)[0])]

    def record_offset(self, row: int) -> int:
        return int(self._record(row)[1])

    def _record(self, row: int) -> np.ndarray:
        return self.index.episodes[self.trajectories.episode(np.array([row]))[0]]

    @functools.cached_property
    def _is_finite(self) -> bool:
        return bool(self.columns["finite"].all())

    @functools.cached_property
    def _cameras(self) -> dict[str, np.ndarray]:
        wanted = {camera.source for camera in self.requirements.cameras}
        cameras = {slot: key for slot, key in self.dataset.spec.cameras.items() if slot in wanted}
        return {slot: self.index.column(STEPS + key, "image") for slot, key in cameras.items()}

    @functools.cached_property
    def _depths(self) -> dict[str, float]:
        """Metres of the stored number 1."""
        known = known_depths(self.dataset.spec, self.requirements.depths)
        for slot in known:
            depth_spans(self.index, STEPS + self.dataset.spec.depths[slot].key)
        return known

    @functools.cached_property
    def _languages(self) -> list[np.ndarray]:
        return [self.index.column(STEPS + key, "text") for key in self.dataset.spec.languages]


def open_source(
    directory: DatasetDirectory,
    requirements: DataRequirements,
    *,
    split: str,
    cache: Path,
    jobs: int,
    skip_unlabeled: bool = False,
    standardization: Literal["correct", "upstream"] = "correct",
) -> Source:
    """Index and table of a split, found or built; InputError where dataset and policy do not fit."""
    dataset = find_dataset(directory.name, standardization)
    form = find_action_space(requirements.action_space.form)
    if requirements.sidecars:
        raise InputError(
            f"{directory.path}: the policy needs the sidecars {list(requirements.sidecars)}; none is there"
        )
    slots = [camera.source for camera in requirements.cameras]
    if slots and not any(slot in dataset.spec.cameras for slot in slots):
        raise InputError(f"dataset {directory.name}: no camera of {slots}; it has {sorted(dataset.spec.cameras)}")
    index = open_index(directory, split, cache, jobs=jobs)
    table = open_table(dataset, index, cache, jobs=jobs)
    if missing := [key for key in form.REQUIRED if key not in table.columns]:
        raise InputError(
            f"dataset {directory.name}: it cannot be mapped into the action space {requirements.action_space.form!r}, "
            f"which needs {missing}; it gives {sorted(table.columns)}. Leave it out of data.mixture"
        )
    boxes = open_boxes(index, requirements.boxes, cache) if requirements.boxes else None
    source = Source(dataset, index, table, requirements, RangeReader(index), skip_unlabeled, boxes=boxes)
    # what is missing is named now, not at the first batch
    _ = source._cameras, source._depths, source._languages, source.available
    warn_of_masked(dataset.spec, requirements.depths)
    if skip_unlabeled and not source.is_labeled.all():
        labeled, every = int(source.is_labeled.sum()), index.num_steps
        LOG.warning("dataset %s: %d of %d steps have no instruction: not sampled", source.name, every - labeled, every)
        if not labeled:
            raise InputError(
                f"{directory.path}: split {split!r} has no step with an instruction, and data.skip_unlabeled is set; "
                f"leave the dataset out, or unset it"
            )
    if not len(source.anchors):
        raise InputError(
            f"{directory.path}: split {split!r} has no window with a valid target; its episodes are too short"
        )
    return source
