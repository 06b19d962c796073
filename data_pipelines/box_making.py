"""Makes the sidecar of boxes with any detector: part by part, so that a run that was killed goes on.

    CACHE/NAME/VERSION/SPLIT/making-boxes/SLOT/
        settings.json       what the boxes depend on, the index's digest among it
        START-STOP.npz      the boxes of these steps, and the steps whose picture is unreadable

The finished sidecar (`boxes.py`) says in boxes.json what it was made with. Nothing made with other settings is gone on
with or replaced: that is refused by name. Axes: k boxes.
"""

import dataclasses
import functools
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from data_pipelines.boxes import Boxes, boxes_folder, write_boxes
from data_pipelines.cache import write_json
from data_pipelines.index.shard_index import STEPS
from data_pipelines.index.sidecar import Index, split_cache
from data_pipelines.parts import Part, Work, find_or_build, made
from data_pipelines.reading import RangeReader, together
from data_pipelines.spec import DatasetSpec
from data_pipelines.transforms.decode import Decode
from vla_jax.types import InputError

LOG = logging.getLogger(__name__)


class Detect(Protocol):
    def __call__(self, pictures: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """uint8[y, x, 3] each to float32[n, k, 4], in shares of the picture, and bool[n, k]."""
        ...


class Summary(NamedTuple):
    folder: Path
    num_steps: int
    num_boxes: int
    num_unreadable: int
    """Steps without boxes because their picture cannot be read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoxMaking:
    """Of one camera of one split."""

    index: Index
    spec: DatasetSpec
    slot: str
    cache: Path
    detect: Detect
    settings: dict[str, Any]
    """What the boxes depend on, as JSON."""
    batch_size: int
    part_steps: int

    def __post_init__(self):
        if self.slot not in self.spec.cameras:
            raise InputError(f"dataset {self.spec.name}: no camera {self.slot!r}; it has {sorted(self.spec.cameras)}")

    def make(self) -> Summary:
        """Of the sidecar that is there, or is made now. InputError where one was made with other settings."""
        return find_or_build(self._find, self._build)

    def _find(self) -> Summary | None:
        folder = boxes_folder(self.index, self.slot, self.cache)
        if not folder.exists():
            return None
        about = _read(folder / "boxes.json")
        if about.get("index") != self.index.digest:
            LOG.warning("%s: made for other data than %s; made again", folder, self.index.directory.path)
            return None
        self._refuse_others(folder / "boxes.json", about.get("made_with", {}))
        return Summary(folder, self.index.num_steps, about["num_boxes"], about["num_unreadable"])

    def _build(self) -> None:
        folder = split_cache(self.index.directory, self.index.split, self.cache) / "making-boxes" / self.slot
        file, settings = folder / "settings.json", self.settings | {"index": self.index.digest}
        if file.exists():
            self._refuse_others(file, _read(file), settings)
        else:
            write_json(file, settings)
        work = Work(folder, self._units, self._part, f"{self.index.split}: boxes")
        with made(work, jobs=1):
            parts = [(part["boxes"], part["mask"], part["unreadable"]) for part in work.parts()]
            boxes, mask, unreadable = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            about = {"num_boxes": int(mask.sum()), "num_unreadable": len(unreadable), "made_with": self.settings}
            target = np.full(len(boxes), -1, np.int32)
            done = boxes_folder(self.index, self.slot, self.cache)
            write_boxes(done, self.index, Boxes(boxes, mask, target), about=about)

    @property
    def _units(self) -> dict[str, range]:
        steps = self.index.num_steps
        starts = range(0, steps, self.part_steps)
        ranges = [range(start, min(start + self.part_steps, steps)) for start in starts]
        return {f"{rows.start:09d}-{rows.stop:09d}": rows for rows in ranges}

    def _part(self, rows: range) -> Part:
        boxes: list[np.ndarray] = []
        masks: list[np.ndarray] = []
        unreadable: list[int] = []
        for start in range(rows.start, rows.stop, self.batch_size):
            batch = range(start, min(start + self.batch_size, rows.stop))
            found = together(self._picture, batch)
            pictures = [picture for picture in found if isinstance(picture, np.ndarray)]
            readable = np.array([isinstance(picture, np.ndarray) for picture in found])
            detected, mask = self.detect(pictures)
            for whole, given in ((boxes, detected), (masks, mask)):
                whole.append(np.zeros((len(batch), *given.shape[1:]), given.dtype))
                whole[-1][readable] = given
            for row in np.array(batch)[~readable]:
                episode = int(np.searchsorted(self.index.first_step, row, side="right")) - 1
                place = (self.spec.name, episode, row - self.index.first_step[episode])
                reason = found[row - batch.start]
                LOG.warning("%s episode %d step %d: no boxes: camera %s: %s", *place, self.slot, reason)
                unreadable.append(row)
        return {
            "boxes": np.concatenate(boxes),
            "mask": np.concatenate(masks),
            "unreadable": np.array(unreadable, np.int64),
        }

    def _picture(self, row: int) -> np.ndarray | ValueError:
        """uint8[y, x, 3], or why there is none."""
        offset, length = map(int, self._spans[row])
        data = self._reader.read(row, offset, length)
        try:
            if len(data) != length:
                raise ValueError(f"the shard ends after {len(data)} of its {length} bytes")
            return Decode()(data, np.empty((0, 0, 3), np.uint8))
        except ValueError as error:
            return error

    @functools.cached_property
    def _spans(self) -> np.ndarray:
        return self.index.column(STEPS + self.spec.cameras[self.slot], "image")

    @functools.cached_property
    def _reader(self) -> RangeReader:
        return RangeReader(self.index)

    def _refuse_others(self, file: Path, found: dict[str, Any], settings: dict[str, Any] | None = None) -> None:
        expected = self.settings if settings is None else settings
        for key in sorted(expected.keys() | found.keys()):
            if found.get(key) != expected.get(key):
                raise InputError(
                    f"{file}: boxes were made with {key}={found.get(key)!r}, now it is {expected.get(key)!r}; go on as "
                    f"before, or remove {file.parent} to make all of them anew"
                )


def _read(file: Path) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not readable ({error}); remove {file.parent} to make the boxes anew") from error
    if not isinstance(tree, dict):
        raise InputError(f"{file}: no object; remove {file.parent} to make the boxes anew")
    return tree
