"""The sidecar of boxes: objects in each picture of a camera, beside the index in the cache.

    CACHE/NAME/VERSION/SPLIT/boxes-SLOT/
        boxes.npy    float32[step, k, 4]: left, upper, right, lower in shares of the picture; all episodes in order
        mask.npy     bool[step, k]
        target.npy   int32[step]: the box that the task is about, or -1; may be absent
        boxes.json   `index`: the digest of the index that the steps are counted by; what they were made with

DFA-VLA reads boxes of SAM, made once and offline. Axes: w window, k boxes.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.cache import load_array, new_folder
from data_pipelines.index.sidecar import Index, split_cache
from data_pipelines.transforms.boxes import GridBoxes
from vla_jax.types import BoxRequirement, InputError


@dataclasses.dataclass(frozen=True)
class Boxes:
    boxes: np.ndarray
    """float32[step, k, 4]."""
    mask: np.ndarray
    """bool[step, k]."""
    target: np.ndarray
    """int32[step]."""
    digest: str = ""
    """Of the files; a resumed run must find the same boxes."""

    def at(self, rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The first `count` boxes of steps int64[w], padded: float32[w, count, 4], bool[w, count], int32[w]."""
        boxes, mask = np.zeros((len(rows), count, 4), np.float32), np.zeros((len(rows), count), bool)
        given = min(count, self.boxes.shape[1])
        boxes[:, :given], mask[:, :given] = self.boxes[rows, :given], self.mask[rows, :given]
        target = np.asarray(self.target[rows])
        return boxes, mask, np.where(target < given, target, -1).astype(np.int32)


def boxes_folder(index: Index, slot: str, cache: Path) -> Path:
    return split_cache(index.directory, index.split, cache) / f"boxes-{slot}"


def write_boxes(folder: Path, index: Index, boxes: Boxes, *, about: Mapping[str, Any] | None = None) -> None:
    """Args: about: further entries of boxes.json, which nothing here reads."""
    with new_folder(folder) as temporary:
        np.save(temporary / "boxes.npy", boxes.boxes)
        np.save(temporary / "mask.npy", boxes.mask)
        np.save(temporary / "target.npy", boxes.target)
        (temporary / "boxes.json").write_text(json.dumps({"index": index.digest} | dict(about or {})) + "\n")


def open_boxes(index: Index, requirement: BoxRequirement, cache: Path) -> Boxes:
    """InputError where there is none, or one of other data."""
    folder, steps = boxes_folder(index, requirement.slot, cache), index.num_steps
    if not folder.is_dir():
        if requirement.missing == "grid":
            return _grid(requirement.count, steps)
        raise InputError(
            f"{folder}: the policy needs boxes of the camera {requirement.slot!r}, and there are none: make them, or "
            "let a grid stand in with the policy's boxes.missing=grid"
        )
    try:
        digest = json.loads((folder / "boxes.json").read_text())["index"]
        boxes, mask = load_array(folder / "boxes.npy"), load_array(folder / "mask.npy")
        has_target = (folder / "target.npy").is_file()
        target = load_array(folder / "target.npy") if has_target else np.full(steps, -1, np.int32)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: damaged ({error}); make the boxes again") from error
    if digest != index.digest:
        raise InputError(f"{folder}/boxes.json: made for other data than {index.directory.path}; make the boxes again")
    expected = ((steps, boxes.shape[1] if boxes.ndim == 3 else -1, 4), boxes.shape[:2], (steps,))
    if (boxes.shape, mask.shape, target.shape) != expected or mask.dtype != bool:
        raise InputError(
            f"{folder}: boxes {boxes.shape}, mask {mask.dtype} {mask.shape}, target {target.shape}; expected "
            f"({steps}, k, 4), bool ({steps}, k), ({steps},)"
        )
    return Boxes(boxes, mask, target, _digest(folder))


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in ("boxes.npy", "mask.npy", "target.npy"):
        if (path := folder / file).is_file():
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def _grid(count: int, steps: int) -> Boxes:
    grid = GridBoxes(count)()
    return Boxes(
        np.broadcast_to(grid, (steps, *grid.shape)),
        np.broadcast_to(np.ones(count, bool), (steps, count)),
        np.broadcast_to(np.int32(-1), (steps,)),
        f"a grid of {count}",
    )
