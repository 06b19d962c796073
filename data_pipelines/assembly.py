"""Chosen windows to arrays: pictures read in place, numbers gathered one dataset at a time, text tokenised.

Axes: b samples, w window, y x pixels, h horizon, c coarse horizon, a action, p proprio, t text tokens, k boxes.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from data_pipelines.normalization import Normalizer, stack
from data_pipelines.source import BadRecordError, Source
from data_pipelines.transforms.boxes import MoveBoxes
from data_pipelines.transforms.chunk import Chunk
from data_pipelines.transforms.geometry import UNCHANGED, Geometry
from data_pipelines.transforms.pair import Pair
from vla_jax.types import Batch, CameraRequirement, DataRequirements, InputError, Observation, Tokenize

GOAL, LATER, DEPTH = "goal/", "later/", "depth/"
"""Before the camera's slot: the goal's pictures [b, 1, y, x, 3], those of frame pairs [b, w, y, x, 3], and depth in
metres, float32[b, w, y, x]."""
SAMPLES = 1 << 32
"""`Batch.sample_index` counts modulo this."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """A window chosen for a row of a batch."""

    dataset: int
    row: int
    """The sampled step."""
    rows: np.ndarray
    """int64[w]."""
    mask: np.ndarray
    """bool[w]."""
    attempt: int = 0
    """0 as planned, else the number of the replacement."""
    index: int = 0
    """In the order of all samples of the run."""
    text: str = ""
    goal: int | None = None
    """Row of the goal's picture; None: there is none."""
    geometries: dict[str, Geometry] = dataclasses.field(default_factory=dict)
    """By camera slot; missing ones are shown as they are."""

    @property
    def last_row(self) -> int:
        """The last step that the policy sees."""
        return int(self.rows[np.flatnonzero(self.mask)[-1]])


@dataclasses.dataclass(frozen=True)
class Assembler:
    requirements: DataRequirements
    tokenize: Tokenize
    sources: list[Source]
    statistics: dict[str, Any]
    """By dataset name."""

    @functools.cached_property
    def normalizers(self) -> list[tuple[Normalizer, Normalizer]]:
        return [source.normalizers(statistics_of(source.name, self.statistics)) for source in self.sources]

    def empty_images(self, num_samples: int) -> dict[str, np.ndarray]:
        """uint8[b, w, y, x, 3] of every camera, goal (w = 1) and later picture that the policy asks for; depths."""
        needs, images = self.requirements, {}
        for camera in needs.cameras:
            steps = {camera.slot: needs.window}
            if camera.slot in needs.goals:
                steps[GOAL + camera.slot] = 1
            if needs.pair_offset is not None:
                steps[LATER + camera.slot] = needs.window
            for key, length in steps.items():
                images[key] = np.zeros((num_samples, length, camera.height, camera.width, 3), np.uint8)
        for depth in needs.depths:
            shape = (num_samples, needs.window, depth.height, depth.width)
            images[DEPTH + depth.slot] = np.zeros(shape, np.float32)
        return images

    def read_images(self, sample: Sample, images: dict[str, np.ndarray]) -> None:
        """Fills one sample's arrays of every key, without b; zeros again, and BadRecordError, where one is bad."""
        try:
            for prefix, rows, mask in self._reads(sample):
                self._read(prefix, sample, rows, mask, images)
            self._read_depths(sample, images)
        except BadRecordError:
            for out in images.values():
                out[:] = 0
            raise

    def picture_rows(self, sample: Sample) -> np.ndarray:
        """The steps whose pictures `read_images` reads."""
        return np.concatenate([rows[mask] for _, rows, mask in self._reads(sample)])

    def _reads(self, sample: Sample) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Key prefix, rows int64[w] and mask bool[w]."""
        reads = [("", sample.rows, sample.mask)]
        if self.requirements.pair_offset is not None:
            reads.append((LATER, *self._later(sample)))
        if sample.goal is not None:
            reads.append((GOAL, np.array([sample.goal]), np.array([True])))
        return reads

    def _read(
        self, prefix: str, sample: Sample, rows: np.ndarray, mask: np.ndarray, images: dict[str, np.ndarray]
    ) -> None:
        source = self.sources[sample.dataset]
        for slot, cameras in self._pictures_of.items():
            wanted = [camera for camera in cameras if prefix + camera.slot in images]
            if wanted and source.has_camera(slot):
                outs = [images[prefix + camera.slot] for camera in wanted]
                source.read_images(wanted, rows, mask, sample.geometries.get(slot, UNCHANGED), outs)

    def _read_depths(self, sample: Sample, images: dict[str, np.ndarray]) -> None:
        source = self.sources[sample.dataset]
        for depth in self.requirements.depths:
            if source.has_depth(depth.slot):
                geometry = sample.geometries.get(depth.slot, UNCHANGED)
                source.read_metres(depth, sample.rows, sample.mask, geometry, images[DEPTH + depth.slot])

    @functools.cached_property
    def _pictures_of(self) -> dict[str, list[CameraRequirement]]:
        """The requirements that show each camera."""
        cameras: dict[str, list[CameraRequirement]] = {}
        for camera in self.requirements.cameras:
            cameras.setdefault(camera.source, []).append(camera)
        return cameras

    def _later(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        _, last = self.sources[sample.dataset].trajectories.bounds(sample.rows[:1])
        assert self.requirements.pair_offset is not None
        rows, mask = Pair(self.requirements.pair_offset)(sample.rows[None], sample.mask[None], last)
        return rows[0], mask[0]

    def batch(self, samples: list[Sample], images: dict[str, np.ndarray]) -> Batch:
        """Around pictures that were read."""
        mask = np.stack([sample.mask for sample in samples])
        proprio, action, action_mask = self._numbers(samples, mask)
        tokens, token_mask = self._tokens([sample.text for sample in samples])
        seen = {key: pictures for key, pictures in images.items() if not key.startswith((GOAL, LATER, DEPTH))}
        masks = self._masks(samples, seen, mask)
        leaves: tuple[Any, ...] = (seen, masks, proprio, mask, tokens, token_mask)
        ids = [(sample.dataset, *self.sources[sample.dataset].episode_step(sample.row)) for sample in samples]
        index = np.array([sample.index % SAMPLES for sample in samples], np.uint32)
        supervision: tuple[Any, ...] = (action, action_mask, np.array(ids, np.int32), index)
        return self._with_extras(Batch(Observation(*leaves), *supervision), samples, images)

    def _numbers(self, samples: list[Sample], mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Normalised proprio, action and its mask."""
        rows, dataset = np.stack([sample.rows for sample in samples]), np.array([s.dataset for s in samples])
        (b, w), space = rows.shape, self.requirements.action_space
        proprio = np.zeros((b, w, space.proprio_width), np.float32)
        action = np.zeros((b, w, space.horizon, space.action_width), np.float32)
        action_mask = np.zeros(action.shape, bool)
        here = {int(number): np.flatnonzero(dataset == number) for number in np.unique(dataset)}
        alike: dict[tuple, list[int]] = {}
        for number in here:
            alike.setdefault(self.sources[number].layout, []).append(number)
        for numbers in alike.values():
            places = np.concatenate([here[number] for number in numbers])
            state, target, valid = self._raw([(self.sources[n], rows[here[n]].reshape(-1)) for n in numbers])
            owner = dataset[places]
            normalize_action, normalize_proprio = self._stacked
            proprio[places] = normalize_proprio[owner.repeat(w)](state).reshape(-1, *proprio.shape[1:])
            action[places] = normalize_action[owner.repeat(w)[:, None]](target).reshape(-1, *action.shape[1:])
            supervised = valid.reshape(-1, w, space.horizon) & mask[places][:, :, None]
            action_mask[places] = supervised[..., None] & self._available[owner][:, None, None]
        if self.requirements.goals:
            for sample, own in zip(samples, action_mask):
                own &= self._before_goal(sample, self.sources[sample.dataset].chunk)[..., None]
        return proprio, action, action_mask

    def _before_goal(self, sample: Sample, chunk: Chunk) -> np.ndarray:
        """bool[w, h]: the entries of chunks that lead to the sample's goal; all, where it has none."""
        if sample.goal is None:
            return np.ones((1, 1), bool)
        next_target = self.sources[sample.dataset].trajectories.next_target(sample.last_row)
        return chunk.before(sample.rows, sample.goal, next_target)

    def _raw(self, parts: list[tuple[Source, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`Source.numbers` of steps of several sources of one layout, one after the other."""
        source = parts[0][0]
        if len(parts) == 1:
            return source.numbers(parts[0][1])
        gathered = [other.gather(rows, other.chunk) for other, rows in parts]
        steps, ahead = ({key: np.concatenate([g[i][key] for g in gathered]) for key in gathered[0][i]} for i in (0, 1))
        mask = np.concatenate([valid for _, _, valid in gathered])
        return source.form.proprio(steps), source.form.targets(steps, ahead), mask

    @functools.cached_property
    def _stacked(self) -> tuple[Normalizer, Normalizer]:
        actions, proprios = zip(*self.normalizers)
        return stack(actions), stack(proprios)

    @functools.cached_property
    def _available(self) -> np.ndarray:
        """bool[dataset, a]."""
        width = self.requirements.action_space.action_width
        return np.stack([np.broadcast_to(source.available, width) for source in self.sources])

    def _masks(self, samples: list[Sample], images: dict[str, np.ndarray], mask: np.ndarray) -> dict[str, np.ndarray]:
        """By camera slot: the mask bool[b, ...] where the sample's dataset has the camera."""
        sources = {camera.slot: camera.source for camera in self.requirements.cameras}
        has = {
            slot: np.array([self.sources[sample.dataset].has_camera(sources[slot]) for sample in samples])
            for slot in images
        }
        return {slot: mask & given.reshape(-1, *[1] * (mask.ndim - 1)) for slot, given in has.items()}

    def _with_extras(self, batch: Batch, samples: list[Sample], images: dict[str, np.ndarray]) -> Batch:
        """Goals, frame pairs, coarse chunks, boxes and depths, where the policy asks for them."""
        needs, seen, extras = self.requirements, dict[str, Any](), dict[str, Any]()
        if needs.goals:
            seen["goal_images"] = {slot: images[GOAL + slot][:, 0] for slot in needs.goals}
            given = np.array([sample.goal is not None for sample in samples])
            seen["goal_masks"] = self._masks(samples, seen["goal_images"], given)
        if needs.depths:
            seen["depths"] = {depth.slot: images[DEPTH + depth.slot] for depth in needs.depths}
            seen["depth_masks"] = {depth.slot: self._depth_mask(samples, depth.slot) for depth in needs.depths}
        if needs.boxes is not None:
            seen["boxes"], seen["box_masks"], extras["target_box"] = self._boxes(samples)
        if needs.pair_offset is not None:
            extras["later_images"] = {camera.slot: images[LATER + camera.slot] for camera in needs.cameras}
            later = np.stack([self._later(sample)[1] for sample in samples])
            extras["later_masks"] = self._masks(samples, extras["later_images"], later)
        if needs.coarse is not None:
            extras["coarse_action"], extras["coarse_action_mask"] = self._coarse(samples)
        return dataclasses.replace(batch, observation=dataclasses.replace(batch.observation, **seen), **extras)

    def _depth_mask(self, samples: list[Sample], slot: str) -> np.ndarray:
        """bool[b, w]."""
        return np.stack([sample.mask & self.sources[sample.dataset].has_depth(slot) for sample in samples])

    def _coarse(self, samples: list[Sample]) -> tuple[np.ndarray, np.ndarray]:
        """float32 and bool[b, w, c, a]."""
        assert self.requirements.coarse is not None
        chunk = Chunk(self.requirements.coarse.horizon, stride=self.requirements.coarse.stride)
        actions, masks = [], []
        for sample in samples:
            source, (normalize, _) = self.sources[sample.dataset], self.normalizers[sample.dataset]
            target, valid = source.targets(sample.rows, chunk)
            actions.append(normalize(target))
            valid = valid & sample.mask[:, None] & self._before_goal(sample, chunk)
            masks.append(valid[..., None] & source.available)
        return np.stack(actions), np.stack(masks)

    def _boxes(self, samples: list[Sample]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """float32[b, w, k, 4], bool[b, w, k] and the target int32[b, w], as the policy sees the camera."""
        needs = self.requirements.boxes
        assert needs is not None
        camera = next(camera for camera in self.requirements.cameras if camera.slot == needs.slot)
        move, parts = MoveBoxes(camera.height, camera.width, needs.smallest_side), []
        for sample in samples:
            source = self.sources[sample.dataset]
            assert source.boxes is not None
            boxes, mask, target = source.boxes.at(sample.rows, needs.count)
            mask &= sample.mask[:, None] & source.has_camera(camera.source)
            boxes, mask = move(boxes, mask, sample.geometries.get(camera.source, UNCHANGED))
            is_seen = (target >= 0) & mask[np.arange(len(mask)), target]
            parts.append((boxes, mask, np.where(is_seen, target, -1).astype(np.int32)))
        boxes, masks, targets = map(np.stack, zip(*parts))
        return boxes, masks, targets

    def _tokens(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        tokens, mask = self.tokenize(texts)
        expected = (len(texts), self.requirements.text_length)
        assert np.shape(tokens) == np.shape(mask) == expected, f"tokenize gave {np.shape(tokens)}, expected {expected}"
        return np.asarray(tokens, np.int32), np.asarray(mask, bool)


def statistics_of(name: str, statistics: dict[str, Any]) -> dict[str, Any]:
    if name not in statistics:
        raise InputError(f"dataset_statistics.json: none for the dataset {name!r}; it has {sorted(statistics)}")
    return statistics[name]
