"""Pictures to boxes with SAM, a batch of equal shape at a time. Axes: n pictures, k boxes."""

import collections
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from vla_jax.encoders.sam import Sam
from vla_jax.parameters import Structure
from vla_jax.segmentation.mask_generation import MaskGeneration, Proposals, fit
from vla_jax.segmentation.selection import Selection
from vla_jax.types import Parameters


class BoxDetector:
    def __init__(
        self,
        structure: Structure,
        parameters: Parameters,
        *,
        image_size: int,
        generation: MaskGeneration,
        selection: Selection,
        batch_size: int,
    ):
        self._image_size, self._selection, self._batch_size = image_size, selection, batch_size
        self._parameters = parameters

        def propose(parameters: Parameters, images: Array, original: tuple[int, int]) -> Proposals:
            return generation(cast(Sam, structure.merge(parameters)), images, original)

        self._propose = jax.jit(propose, static_argnames="original")

    def __call__(
        self, pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]]
    ) -> tuple[Float[np.ndarray, "n k 4"], Bool[np.ndarray, "n k"]]:
        """In shares of each picture. A program is compiled for each size of pictures."""
        count = self._selection.count
        boxes, mask = np.zeros((len(pictures), count, 4), np.float32), np.zeros((len(pictures), count), bool)
        alike: dict[Any, list[int]] = collections.defaultdict(list)
        for place, picture in enumerate(pictures):
            alike[picture.shape[:2]].append(place)
        for original, places in alike.items():
            for start in range(0, len(places), self._batch_size):
                batch = places[start : start + self._batch_size]
                found = self._proposals([pictures[place] for place in batch], original)
                for number, place in enumerate(batch):
                    of_picture = Proposals(*(array[number] for array in found))
                    boxes[place], mask[place] = self._selection(of_picture, *original)
        return boxes, mask

    def _proposals(self, pictures: list[np.ndarray], original: tuple[int, int]) -> Proposals:
        """A smaller batch is filled with its last picture, so that it needs no program of its own."""
        fitted = [fit(picture, self._image_size) for picture in pictures]
        fitted += fitted[-1:] * (self._batch_size - len(fitted))
        return jax.device_get(self._propose(self._parameters, jnp.asarray(np.stack(fitted)), original=original))
