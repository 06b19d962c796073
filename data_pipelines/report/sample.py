"""One sample of a batch after every transform: what lay in the dataset, and what the policy is given.

Axes: b samples, w window, y x pixels, h horizon, a action, p proprio, k boxes.
"""

import dataclasses
from typing import Any

import numpy as np

from data_pipelines.assembly import Sample
from data_pipelines.index.shard_index import STEPS
from data_pipelines.pipeline import Pipeline
from data_pipelines.report.depth import coloured, range_of
from data_pipelines.report.filmstrip import read_picture
from data_pipelines.source import Source
from data_pipelines.transforms.depth import ToMetres
from vla_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Of one camera slot along the window."""

    as_read: list[np.ndarray | None]
    """uint8[y, x, 3] at the size that they are stored in; None where the policy is given none."""
    seen: np.ndarray
    """uint8[w, y, x, 3]."""
    mask: np.ndarray
    """bool[w]."""
    goal: np.ndarray | None
    """uint8[y, x, 3]."""
    later: np.ndarray | None
    """uint8[w, y, x, 3]."""
    boxes: np.ndarray | None
    """float32[w, k, 4]; those that are masked are NaN."""
    range_metres: tuple[float, float] | None = None
    """Of depth, which is shown in colours: the nearest and the farthest along the window."""

    def visible_boxes(self) -> list[list[list[float]]]:
        """At each window step."""
        assert self.boxes is not None
        return [boxes[np.isfinite(boxes).all(-1)].tolist() for boxes in self.boxes]


@dataclasses.dataclass(frozen=True)
class ShownSample:
    dataset: str
    episode: int
    step: int
    chosen: Sample
    pictures: dict[str, Pictures]
    """By camera slot; depth by `SLOT depth`."""
    action: np.ndarray
    """float32[w, h, a], not normalised."""
    proprio: np.ndarray
    """float32[w, p], not normalised."""
    normalised_action: np.ndarray
    normalised_proprio: np.ndarray
    action_mask: np.ndarray
    """bool[w, h, a]."""

    @property
    def place(self) -> int:
        """Of the sampled step in the window."""
        return int(np.flatnonzero((self.chosen.rows == self.chosen.row) & self.chosen.mask)[0])

    def tree(self) -> dict[str, Any]:
        """Of numbers.json."""
        chosen = self.chosen
        geometries = {
            slot: {"box": list(g.box), "degrees": g.degrees, "mirrored": g.mirrored}
            for slot, g in chosen.geometries.items()
        }
        return {
            "dataset": self.dataset,
            "episode": self.episode,
            "step": self.step,
            "sample_index": chosen.index,
            "attempt": chosen.attempt,
            "instruction": chosen.text,
            "window_rows": chosen.rows.tolist(),
            "window_mask": chosen.mask.tolist(),
            "goal_row": chosen.goal,
            "geometries": geometries,
            "depth_metres": {slot: list(p.range_metres) for slot, p in self.pictures.items() if p.range_metres},
            "boxes": {slot: p.visible_boxes() for slot, p in self.pictures.items() if p.boxes is not None},
            "proprio": self.proprio.tolist(),
            "normalised_proprio": self.normalised_proprio.tolist(),
            "action": self.action.tolist(),
            "normalised_action": self.normalised_action.tolist(),
            "action_mask": self.action_mask.tolist(),
        }


def shown_samples(pipeline: Pipeline, step: int, num_samples: int) -> list[ShownSample]:
    """The first rows of a global batch, the same that training gets."""
    chosen, images = pipeline.read(step, slice(0, num_samples))
    batch = pipeline.assembler.batch(chosen, images)
    return [_shown(pipeline, sample, batch, place) for place, sample in enumerate(chosen)]


def _shown(pipeline: Pipeline, sample: Sample, batch: Batch, place: int) -> ShownSample:
    source = pipeline.sources[sample.dataset]
    proprio, action, _ = source.numbers(sample.rows)
    needs = pipeline.assembler.requirements
    pictures = {camera.slot: _pictures(pipeline, sample, batch, place, camera.slot) for camera in needs.cameras}
    depths = {
        depth_name(depth.slot): _depth_pictures(source, sample, batch, place, depth.slot) for depth in needs.depths
    }
    return ShownSample(
        source.name,
        *source.episode_step(sample.row),
        chosen=sample,
        pictures=pictures | depths,
        action=action,
        proprio=proprio,
        normalised_action=np.asarray(batch.action)[place],
        normalised_proprio=np.asarray(batch.observation.proprio)[place],
        action_mask=np.asarray(batch.action_mask)[place],
    )


def _pictures(pipeline: Pipeline, sample: Sample, batch: Batch, place: int, slot: str) -> Pictures:
    needs, seen = pipeline.assembler.requirements, batch.observation
    camera = next(camera for camera in needs.cameras if camera.slot == slot)
    mask = np.asarray(seen.image_masks[slot])[place]
    source = pipeline.sources[sample.dataset]
    goal = later = boxes = None
    if slot in needs.goals and seen.goal_images and seen.goal_masks and seen.goal_masks[slot][place]:
        goal = np.asarray(seen.goal_images[slot])[place]
    if batch.later_images is not None:
        later = np.asarray(batch.later_images[slot])[place]
    if needs.boxes is not None and needs.boxes.slot == slot:
        given = np.asarray(seen.box_masks)[place][..., None]
        boxes = np.where(given, np.asarray(seen.boxes)[place], np.nan)
    as_read = [_as_read(source, camera.source, int(row)) if ok else None for row, ok in zip(sample.rows, mask)]
    return Pictures(as_read, np.asarray(seen.images[slot])[place], mask, goal, later, boxes)


def _as_read(source: Source, slot: str, row: int) -> np.ndarray:
    return read_picture(source.index, source.reader, STEPS + source.dataset.spec.cameras[slot], row)


def depth_name(slot: str) -> str:
    return f"{slot} depth"


def _depth_pictures(source: Source, sample: Sample, batch: Batch, place: int, slot: str) -> Pictures:
    seen = batch.observation
    assert seen.depths is not None
    assert seen.depth_masks is not None
    mask, depths = np.asarray(seen.depth_masks[slot])[place], np.asarray(seen.depths[slot])[place]
    metres = source.dataset.spec.depths[slot].metres if mask.any() else None
    to_metres = ToMetres(metres or 1.0)
    as_read = [to_metres(source.read_depth(slot, int(row))) if ok else None for row, ok in zip(sample.rows, mask)]
    low, high = range_of(depth for depth in as_read if depth is not None)
    return Pictures(
        [None if depth is None else coloured(depth, low, high) for depth in as_read],
        coloured(depths, low, high),
        mask,
        goal=None,
        later=None,
        boxes=None,
        range_metres=(low, high) if mask.any() else None,
    )
