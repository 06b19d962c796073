"""What is verified: a dataset directory, what its SPEC says, and what follows from both."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from data_pipelines.discovery import find_dataset
from data_pipelines.index.dataset_directory import DatasetDirectory, Feature
from data_pipelines.index.shard_index import STEPS
from data_pipelines.schema import Trajectory
from data_pipelines.spec import DatasetSpec
from vla_jax.types import InputError

OPENNESS = ("target_gripper", "left_target_gripper")
PROBES = (-1.0, 0.0, 1.0)
"""Commands that every raw gripper convention tells apart."""


@dataclasses.dataclass(frozen=True)
class Subject:
    directory: DatasetDirectory
    spec: DatasetSpec | None
    """None: no file of `datasets/` has the dataset's name."""
    standardize: Callable[[Trajectory], Trajectory] | None
    all_images: bool = False
    """Decode every picture, not a sample."""
    _grippers: dict[str, frozenset[int]] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def features(self, kind: str) -> dict[str, Feature]:
        return {key: feature for key, feature in self.directory.features.items() if feature.kind == kind}

    @functools.cached_property
    def cameras(self) -> tuple[str, ...]:
        """Feature keys of colour pictures, those that the SPEC does not name too."""
        return tuple(key for key, feature in self.features("image").items() if feature.shape[-1:] == (3,))

    @functools.cached_property
    def languages(self) -> tuple[str, ...]:
        """Feature keys of instructions."""
        texts = [key for key in self.features("text") if key.startswith(STEPS)]
        if self.spec is not None:
            return tuple(key for key in texts if key.removeprefix(STEPS) in self.spec.languages)
        return tuple(key for key in texts if "language" in key or "instruction" in key)

    @functools.cached_property
    def numbers(self) -> tuple[str, ...]:
        """Feature keys of state and action."""
        present = [key for key in self.features("number") if key.startswith(STEPS)]
        if self.spec is not None:
            return tuple(key for name in self.spec.numbers if (key := STEPS + name) in present)
        return tuple(key for key in present if key.startswith(STEPS + "action") or key.rsplit("/")[-1] == "state")

    @functools.cached_property
    def actions(self) -> tuple[str, ...]:
        return tuple(key for key in self.numbers if key.startswith(STEPS + "action"))

    @functools.cached_property
    def missing(self) -> dict[str, tuple[str, ...]]:
        """What the SPEC reads and features.json lacks: `numbers`, `cameras`, `languages`."""
        return {} if self.spec is None else missing_features(self.spec, self.directory.features)

    @property
    def can_standardize(self) -> bool:
        return self.standardize is not None and not self.missing["numbers"]

    def grippers(self, raw: Trajectory) -> frozenset[int]:
        """Which dimensions of the raw action command a gripper: those that `standardize` answers to with openness.

        Args: raw: Numbers of an episode, on which it is tried once.
        """
        if "found" not in self._grippers:
            self._grippers["found"] = self._find_grippers(raw) if self.can_standardize else frozenset()
        return self._grippers["found"]

    def _find_grippers(self, raw: Trajectory) -> frozenset[int]:
        found, first = set(), 0
        for key in self.actions:
            flat = raw[key.removeprefix(STEPS)].reshape(len(raw[key.removeprefix(STEPS)]), -1)
            for dim in range(flat.shape[1]):
                answers = [self._openness(raw, key.removeprefix(STEPS), dim, value) for value in PROBES]
                if any(not np.array_equal(answer, answers[0], equal_nan=True) for answer in answers):
                    found.add(first + dim)
            first += flat.shape[1]
        return frozenset(found)

    def _openness(self, raw: Trajectory, key: str, dim: int, value: float) -> np.ndarray:
        assert self.standardize is not None
        probed = raw[key].copy()
        probed.reshape(len(probed), -1)[:, dim] = value
        with np.errstate(all="ignore"):
            given = self.standardize(raw | {key: probed})
        return np.concatenate([given[name] for name in OPENNESS if name in given] or [np.zeros(0)])


def missing_features(spec: DatasetSpec, features: dict[str, Feature]) -> dict[str, tuple[str, ...]]:
    """Keys that the SPEC reads and the tree lacks, by the field of the SPEC."""
    kinds = {key.removeprefix(STEPS): feature.kind for key, feature in features.items() if key.startswith(STEPS)}
    depths = [depth.key for depth in spec.depths.values() if spec.is_verified and depth.key not in kinds]
    return {
        "numbers": tuple(key for key in spec.numbers if kinds.get(key) != "number"),
        "cameras": (*(key for key in spec.cameras.values() if kinds.get(key) not in ("image", "array")), *depths),
        "languages": tuple(key for key in spec.languages if kinds.get(key) != "text"),
    }


def open_subject(directory: DatasetDirectory, *, all_images: bool = False) -> Subject:
    try:
        dataset = find_dataset(directory.name)
    except InputError:
        return Subject(directory, None, None, all_images)
    return Subject(directory, dataset.spec, dataset.standardize, all_images)
