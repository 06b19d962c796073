"""One record as the checks look at it. Axes: t steps, a dimensions of the raw action, in the order of its keys."""

import dataclasses
import functools
import hashlib
from collections import Counter

import numpy as np

from data_pipelines.index.dataset_directory import Shard
from data_pipelines.index.example import parse_example
from data_pipelines.index.shard_index import STEPS, RecordReader
from data_pipelines.index.tfrecord import Record
from data_pipelines.schema import Trajectory
from data_pipelines.verification.pictures import Look, look_at, worth_decoding
from data_pipelines.verification.subject import Subject
from vla_jax.types import InputError

MOTIONS = ("gripper_delta", "gripper_velocity", "joint_velocity", "base")
"""Kinds of action that are 0 where the robot is to stay; of the others, an action that repeats the last one is."""


@dataclasses.dataclass(frozen=True)
class Place:
    split: str
    shard: str
    """File name."""
    first_episode: int


@dataclasses.dataclass(frozen=True)
class Actions:
    """Raw ones."""

    values: np.ndarray
    """float64[t, a]."""
    names: tuple[str, ...]
    is_gripper: np.ndarray
    """bool[a]."""
    in_range: np.ndarray
    """bool[t, a]: within what the SPEC publishes, or it publishes nothing."""

    @property
    def usable(self) -> np.ndarray:
        """bool[t]: finite and in range, what checks of motion rest on."""
        return (np.isfinite(self.values) & self.in_range).all(1)


class Episode:
    """ValueError where the record is no tf.train.Example."""

    def __init__(self, subject: Subject, place: Place, shard: Shard, number: int, record: Record):
        self.subject, self.place, self.number = subject, place, place.first_episode + number
        self._record = record
        self.problems: list[str] = []
        """What is not as features.json declares."""
        self.columns: dict[str, np.ndarray] = {}
        texts: dict[bytes, int] = {}
        reader = RecordReader(shard.path, number, record, texts)
        kept = {key: feature for key, feature in subject.directory.features.items() if feature.kind != "left_out"}
        unread = {key for key, feature in kept.items() if feature.kind == "array"}
        values = parse_example(record.data, kept, unread)
        for key, feature in kept.items():
            if key not in values:
                if key not in subject.cameras:
                    self.problems.append(f"{key} is not in the record, though features.json declares it")
                continue
            try:
                self.columns[key] = reader.column(key, feature, values[key])
            except InputError as error:
                self.problems.append(str(error).removeprefix(f"{shard.path}: record {number}: "))
        self._texts = list(texts)
        lengths = Counter(len(column) for key, column in self.columns.items() if key.startswith(STEPS))
        self.standardize_error = ""
        self.num_steps = lengths.most_common(1)[0][0] if lengths else 0
        self.uneven = [
            f"{key} has {len(column)}"
            for key, column in self.columns.items()
            if key.startswith(STEPS) and len(column) != self.num_steps and (len(column) or key not in subject.cameras)
        ]
        """Features of another number of steps."""

    def numbers(self, key: str) -> np.ndarray | None:
        column = self.columns.get(key)
        usable = column is not None and (len(column) == self.num_steps or not key.startswith(STEPS))
        return column if usable else None

    def texts(self, key: str) -> list[bytes]:
        return [self._texts[number] for number in self.columns.get(key, ())]

    def picture_lengths(self, camera: str) -> np.ndarray:
        """int64[t], in bytes; 0 where there is none."""
        column = self.columns.get(camera)
        if column is None or len(column) != self.num_steps:
            return np.zeros(self.num_steps, np.int64)
        return column[:, 1]

    def picture(self, camera: str, step: int) -> bytes:
        offset, length = self.columns[camera][step].tolist()
        start = offset - self._record.offset
        return self._record.data[start : start + length]

    @functools.cached_property
    def looks(self) -> dict[str, list[Look]]:
        """By camera: its decoded pictures, a sample of those that there are."""
        looks: dict[str, list[Look]] = {}
        for camera in self.subject.cameras:
            lengths = self.picture_lengths(camera)
            steps = worth_decoding(
                lengths, lambda step, camera=camera: self.picture(camera, step), decode_all=self.subject.all_images
            )
            looks[camera] = [look_at(self.picture(camera, step), step) for step in steps]
        return looks

    @functools.cached_property
    def raw(self) -> Trajectory | None:
        """What `standardize` reads; None where it is not whole or there are no steps."""
        columns = {key.removeprefix(STEPS): self.numbers(key) for key in self.subject.numbers}
        whole = {key: column for key, column in columns.items() if column is not None}
        return whole if self.num_steps and len(whole) == len(columns) else None

    @functools.cached_property
    def standardized(self) -> Trajectory:
        """Empty where it cannot be done; `standardize_error` may say why."""
        if self.raw is None or self.subject.standardize is None or not self.subject.can_standardize:
            return {}
        try:
            with np.errstate(all="ignore"):
                return self.subject.standardize(self.raw)
        except (ValueError, IndexError, KeyError, TypeError) as error:
            self.standardize_error = f"{type(error).__name__}: {error}"
            return {}

    @property
    def has_motions(self) -> bool:
        return self.subject.spec is not None and self.subject.spec.action in MOTIONS

    @functools.cached_property
    def actions(self) -> Actions | None:
        if self.raw is None or not self.subject.actions:
            return None
        parts, names = [], []
        for key in self.subject.actions:
            flat = self.raw[key.removeprefix(STEPS)].reshape(self.num_steps, -1).astype(np.float64)
            parts.append(flat)
            names += [f"{key.removeprefix(STEPS)}[{dim}]" for dim in range(flat.shape[1])]
        values = np.concatenate(parts, axis=1)
        is_gripper = np.zeros(len(names), bool)
        if self.standardized:
            is_gripper[list(self.subject.grippers(self.raw))] = True
        return Actions(values, tuple(names), is_gripper, self._in_range(values))

    def _in_range(self, values: np.ndarray) -> np.ndarray:
        bounds = None if self.subject.spec is None else self.subject.spec.action_range
        if bounds is None or len(bounds) != values.shape[1]:
            return np.ones(values.shape, bool)
        low, high = np.array(bounds).T
        slack = 1e-3 * (high - low)
        return ~((values < low - slack) | (values > high + slack))

    @functools.cached_property
    def content(self) -> bytes:
        """Equal for two episodes with the same raw states and actions and first pictures, bit by bit."""
        digest = hashlib.blake2b(digest_size=16)
        for column in (self.raw or {}).values():
            digest.update(np.ascontiguousarray(column).tobytes())
        for camera in self.subject.cameras:
            there = np.flatnonzero(self.picture_lengths(camera))
            digest.update(self.picture(camera, int(there[0])) if len(there) else b"\0")
        return digest.digest()
