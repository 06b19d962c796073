"""Chosen windows to arrays: pictures read in place, numbers gathered one dataset at a time, text tokenised.

Axes: b samples, w window, y x pixels, h horizon, a action, p proprio, t text tokens.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from data_pipelines.normalization import Normalizer
from data_pipelines.source import BadRecordError, Source
from data_pipelines.transforms.resize import WHOLE, Box
from vla_jax.types import Batch, DataRequirements, InputError, Observation, Tokenize


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
    text: str = ""


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
        shape = (num_samples, self.requirements.window)
        return {c.slot: np.zeros((*shape, c.height, c.width, 3), np.uint8) for c in self.requirements.cameras}

    def read_images(self, sample: Sample, images: dict[str, np.ndarray], boxes: dict[str, Box]) -> None:
        """Fills one sample's uint8[w, y, x, 3] of every camera; zeros again, and BadRecordError, where one is bad."""
        source = self.sources[sample.dataset]
        try:
            for camera in self.requirements.cameras:
                if source.has_camera(camera.slot):
                    box = boxes.get(camera.slot, WHOLE)
                    source.read_images(camera, sample.rows, sample.mask, box, images[camera.slot])
        except BadRecordError:
            for out in images.values():
                out[:] = 0
            raise

    def batch(self, samples: list[Sample], images: dict[str, np.ndarray]) -> Batch:
        """Around pictures that were read."""
        rows = np.stack([sample.rows for sample in samples])
        mask = np.stack([sample.mask for sample in samples])
        dataset = np.array([sample.dataset for sample in samples])
        (b, w), space = rows.shape, self.requirements.action_space
        proprio = np.zeros((b, w, space.proprio_width), np.float32)
        action = np.zeros((b, w, space.horizon, space.action_width), np.float32)
        action_mask = np.zeros(action.shape, bool)
        for number in np.unique(dataset):
            here = dataset == number
            normalize_action, normalize_proprio = self.normalizers[number]
            state, target, valid = self.sources[number].numbers(rows[here].reshape(-1))
            proprio[here] = normalize_proprio(state).reshape(-1, *proprio.shape[1:])
            action[here] = normalize_action(target).reshape(-1, *action.shape[1:])
            supervised = valid.reshape(-1, w, space.horizon) & mask[here][:, :, None]
            action_mask[here] = supervised[..., None] & self.sources[number].available
        tokens, token_mask = self._tokens([sample.text for sample in samples])
        has_camera = {slot: np.array([source.has_camera(slot) for source in self.sources]) for slot in images}
        image_masks = {slot: mask & has[dataset][:, None] for slot, has in has_camera.items()}
        ids = [(sample.dataset, *self.sources[sample.dataset].episode_step(sample.row)) for sample in samples]
        leaves: tuple[Any, ...] = (images, image_masks, proprio, mask, tokens, token_mask)
        supervision: tuple[Any, ...] = (action, action_mask, np.array(ids, np.int32))
        return Batch(Observation(*leaves), *supervision)

    def _tokens(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        tokens, mask = self.tokenize(texts)
        expected = (len(texts), self.requirements.text_length)
        assert np.shape(tokens) == np.shape(mask) == expected, f"tokenize gave {np.shape(tokens)}, expected {expected}"
        return np.asarray(tokens, np.int32), np.asarray(mask, bool)


def statistics_of(name: str, statistics: dict[str, Any]) -> dict[str, Any]:
    if name not in statistics:
        raise InputError(f"dataset_statistics.json: none for the dataset {name!r}; it has {sorted(statistics)}")
    return statistics[name]
