"""Trajectories as tf.data or dlimp give them: checked, and taken apart into numbers, texts and pictures.

A trajectory is a (nested) dict of arrays, all with a leading axis of the same length; keys are joined by slashes
(`observation/image_0`), a top level `steps` is left out. Only the keys that the dataset's SPEC names are read. This
file and those that use it never import TensorFlow: a dataset is asked for numpy through its own methods.

Axes: time.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from data_pipelines.discovery import Dataset
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec
from vla_jax.types import InputError

INFINITE = -1
"""What tf.data's `cardinality` gives of a dataset that never ends."""


class NumpyDataset(Protocol):
    """A tf.data.Dataset, a DLataset, or whatever iterates anew, as numpy, each time that it is asked."""

    def as_numpy_iterator(self) -> Iterator[Any]: ...


@dataclasses.dataclass(frozen=True)
class StreamedEpisode:
    numbers: Trajectory
    """[time, ...] by key of `spec.numbers`."""
    texts: dict[str, list[str]]
    """By key of `spec.languages`; bytes that are not UTF-8 are lone surrogates."""
    pictures: dict[str, list[Any]]
    """By camera key: encoded bytes, or uint8[y, x, 3]."""

    @property
    def num_steps(self) -> int:
        return len(next(iter(self.numbers.values())))

    @property
    def num_bytes(self) -> int:
        """Of the pictures."""
        return sum(
            len(picture) if isinstance(picture, bytes) else picture.nbytes
            for pictures in self.pictures.values()
            for picture in pictures
        )


@dataclasses.dataclass(frozen=True)
class Trajectories:
    """A stream, and the dataset that it is of."""

    elements: NumpyDataset
    dataset: Dataset
    """`find_dataset(name)`, or one of a SPEC and `standardize` for the keys that your transform writes."""

    @property
    def spec(self) -> DatasetSpec:
        return self.dataset.spec

    @property
    def is_endless(self) -> bool:
        cardinality = getattr(self.elements, "cardinality", None)
        return cardinality is not None and int(cardinality()) == INFINITE

    def episodes(self, cameras: Iterable[str]) -> Iterator[StreamedEpisode]:
        """Of one pass; those without steps are left out. Args: cameras: the keys whose pictures are read."""
        cameras = tuple(cameras)
        for number, element in enumerate(self._elements()):
            where = f"dataset {self.spec.name}: trajectory {number} of the stream"
            if not isinstance(element, dict):
                raise InputError(f"{where} is a {type(element).__name__}; a dict of arrays is expected")
            episode = _episode(dict(_leaves(element)), self.spec, cameras, where)
            if episode.num_steps:
                yield episode

    def _elements(self) -> Iterator[Any]:
        try:
            return in_order(self.elements).as_numpy_iterator()
        except TypeError as error:
            raise InputError(
                f"dataset {self.spec.name}: the stream's elements are no trees of tensors ({error}). Where `steps` is "
                "a dataset, read it with decoders={'steps': tfds.decode.SkipDecoding()}, as dlimp's from_rlds does"
            ) from error


def in_order(elements: Any) -> NumpyDataset:
    """The same elements in the same order each time: dlimp gives them as they become ready."""
    if not callable(getattr(elements, "as_numpy_iterator", None)):
        raise InputError(
            f"a stream of trajectories: {type(elements).__name__} is no tf.data.Dataset (it has no as_numpy_iterator)"
        )
    if getattr(elements, "is_flattened", False):
        raise InputError("a stream of trajectories: the DLataset is flattened to frames; give it without `.flatten()`")
    if not callable(getattr(elements, "with_options", None)):
        return elements
    options = type(elements.options())()
    options.deterministic = True
    return elements.with_options(options)


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        below = prefix if not prefix and key == "steps" and isinstance(value, dict) else f"{prefix}{key}/"
        if isinstance(value, dict):
            yield from _leaves(value, below)
        else:
            yield f"{prefix}{key}", value


def _episode(leaves: dict[str, Any], spec: DatasetSpec, cameras: tuple[str, ...], where: str) -> StreamedEpisode:
    wanted = (*spec.numbers, *spec.languages, *cameras)
    if missing := [key for key in wanted if key not in leaves]:
        raise InputError(
            f"{where}: no {missing}, which its SPEC and the policy's cameras name; it has {sorted(leaves)}. Keep them "
            "in your transform, or give a SPEC and `standardize` of your own with the keys that it writes"
        )
    lengths = {key: len(leaves[key]) if np.ndim(leaves[key]) else None for key in wanted}
    if len(set(lengths.values())) != 1 or None in lengths.values():
        raise InputError(f"{where}: one row a step is expected of each array; they have {lengths}")
    numbers = {key: np.asarray(leaves[key]) for key in spec.numbers}
    if wrong := {key: str(column.dtype) for key, column in numbers.items() if column.dtype.kind not in "fiub"}:
        raise InputError(f"{where}: {wrong}: numbers are expected")
    return StreamedEpisode(
        numbers,
        {key: _texts(leaves[key], f"{where}: {key!r}") for key in spec.languages},
        {key: _pictures(leaves[key], f"{where}: {key!r}") for key in cameras},
    )


def _texts(column: np.ndarray, where: str) -> list[str]:
    given = list(column)
    if not all(isinstance(text, (bytes, str)) for text in given):
        raise InputError(f"{where} has {np.asarray(column).dtype} {np.shape(column)}; a string a step is expected")
    return [text.decode(errors="surrogateescape") if isinstance(text, bytes) else text for text in given]


def _pictures(column: np.ndarray, where: str) -> list[Any]:
    if np.ndim(column) == 1 and all(isinstance(picture, bytes) for picture in column):
        return list(column)
    if np.ndim(column) == 4 and np.shape(column)[3] == 3 and column.dtype == np.uint8:
        return list(column)
    raise InputError(
        f"{where} has {np.asarray(column).dtype} {np.shape(column)}; encoded pictures (a string a step) or RGB "
        "uint8[time, y, x, 3] are expected"
    )
