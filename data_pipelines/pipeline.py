"""Training batches: numpy on the host, random access by step, the same whatever came before.

    open_pipeline(...) -> Pipeline
    Pipeline.batches(start_step, rows) -> Batches, a closable iterator of Batch
    Pipeline.sample_ids(step), .statistics, .num_replaced

A batch depends on (configuration, data, seed, step) alone; a host that reads `rows` gets those rows of the same global
batch. Pictures are decoded straight into the batch's arrays; numbers, at every step of every window, are gathered and
turned into targets one dataset at a time.

Axes: b batch (this host's rows), w window, h horizon, a action, p proprio, t text tokens.
"""

import dataclasses
import functools
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
import numpy as np

from data_pipelines.config import DataConfig, MixtureEntry
from data_pipelines.discovery import find_dataset
from data_pipelines.index.dataset_directory import read_directory
from data_pipelines.mixture import Draw, Mixture, open_mixture
from data_pipelines.normalization import Normalizer
from data_pipelines.quarantine import Quarantine
from data_pipelines.source import BadRecordError, Source, open_source
from data_pipelines.transforms.crop import RandomCrop
from data_pipelines.transforms.resize import WHOLE, Box
from vla_jax.types import Batch, DataRequirements, InputError, Observation, Tokenize

MAX_ATTEMPTS = 100
NUM_STEPS = 1 << 40
"""More than any run."""
LOG = logging.getLogger(__name__)


def open_pipeline(
    data: DataConfig,
    requirements: DataRequirements,
    tokenize: Tokenize,
    *,
    seed: int,
    batch_size: int,
    cache: Path,
    quarantine: Path | None,
    statistics: dict[str, Any] | None = None,
) -> "Pipeline":
    """Finds or builds index, tables and statistics of every dataset under `cache`; InputError on whatever is wrong.

    `batch_size` is global, over all hosts. `quarantine` lists bad records (None: they are only logged). `statistics`
    replaces the datasets' own, by dataset name, as in dataset_statistics.json.
    """
    if not data.mixture:
        raise InputError("data.mixture is empty: name at least one dataset")
    names = [entry.name for entry in data.mixture]
    if len(set(names)) != len(names):
        raise InputError(f"data.mixture: {names} names a dataset twice; add its weights up")
    sources = [_open_entry(entry, data, requirements, cache) for entry in data.mixture]
    if statistics is None:
        statistics = {source.name: source.statistics(cache) for source in sources}
    statistics = {name: statistics_of(name, statistics) for name in names}
    return Pipeline(
        data=data,
        requirements=requirements,
        tokenize=tokenize,
        batch_size=batch_size,
        sources=sources,
        statistics=statistics,
        mixture=open_mixture(data, sources, seed),
        quarantine=Quarantine(quarantine, data.split, data.max_bad_share),
    )


def statistics_of(name: str, statistics: dict[str, Any]) -> dict[str, Any]:
    if name not in statistics:
        raise InputError(f"dataset_statistics.json: none for the dataset {name!r}; it has {sorted(statistics)}")
    return statistics[name]


def _open_entry(entry: MixtureEntry, data: DataConfig, requirements: DataRequirements, cache: Path) -> Source:
    version = entry.version or find_dataset(entry.name).spec.version
    directory = read_directory(Path(data.root) / entry.name / version)
    if (directory.name, directory.version) != (entry.name, version):
        raise InputError(
            f"{directory.path}/dataset_info.json: it is {directory.name} {directory.version}, "
            f"the folder and data.mixture say {entry.name} {version}"
        )
    jobs = os.cpu_count() or 1
    return open_source(directory, requirements, split=data.split, cache=Path(cache), jobs=jobs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
    data: DataConfig
    requirements: DataRequirements
    tokenize: Tokenize
    batch_size: int
    sources: list[Source]
    statistics: dict[str, Any]
    """By dataset name, as dataset_statistics.json."""
    mixture: Mixture
    quarantine: Quarantine

    @functools.cached_property
    def _normalizers(self) -> list[tuple[Normalizer, Normalizer]]:
        return [source.normalizers(self.statistics[source.name]) for source in self.sources]

    @property
    def num_replaced(self) -> int:
        """Samples whose record was bad, since the start of this process."""
        return self.quarantine.num_replaced

    def batches(self, start_step: int, rows: slice | None = None) -> "Batches":
        """Batches from `start_step` on; `rows`: this host's part of each global batch."""
        reader = grain.MapDataset.source(_Steps(self, rows or slice(None)))
        options = grain.ReadOptions(num_threads=self.data.num_threads, prefetch_buffer_size=self.data.prefetch)
        return Batches(iter(reader[start_step:].to_iter_dataset(options)))

    def batch(self, step: int, rows: slice | None = None) -> Batch:
        """One batch, read now."""
        samples = self._samples(step)[rows or slice(None)]
        images = self._empty_images(len(samples))
        chosen = [
            self._read_sample(int(sample), {k: v[i] for k, v in images.items()}) for i, sample in enumerate(samples)
        ]
        self.quarantine.count(len(chosen), sum(sample.attempt > 0 for sample in chosen))
        return assemble(self, self._normalizers, chosen, images)

    def sample_ids(self, step: int) -> np.ndarray:
        """(dataset, episode, step) of each row of a global batch, int32[b, 3], without decoding.

        The same as `Batch.sample_ids` once the bad pictures in that batch are known, that is after it was read in this
        run, here or before a resume; until then a sample with an unknown bad picture is given as it was planned.
        """
        return np.array([self._plan(int(sample)) for sample in self._samples(step)], np.int32)

    def _samples(self, step: int) -> np.ndarray:
        return np.arange(step * self.batch_size, (step + 1) * self.batch_size)

    def _empty_images(self, num_samples: int) -> dict[str, np.ndarray]:
        shape = (num_samples, self.requirements.window)
        return {c.slot: np.zeros((*shape, c.height, c.width, 3), np.uint8) for c in self.requirements.cameras}

    def _candidates(self, sample: int) -> Iterator["Sample"]:
        """The planned window, then its replacements."""
        dataset, window = self.mixture[sample]
        source = self.sources[dataset]
        for attempt in range(MAX_ATTEMPTS):
            if attempt:
                window = self.mixture.replacement(dataset, sample, attempt)
            row = source.anchors[window : window + 1]
            rows, mask = source.window(row, *source.trajectories.bounds(row))
            yield Sample(dataset, int(row[0]), rows[0], mask[0], attempt)
        raise InputError(
            f"dataset {source.name}: {MAX_ATTEMPTS} windows in a row were bad (sample {sample}); "
            f"see {self.quarantine.path or 'the log'}"
        )

    def _read_sample(self, sample: int, images: dict[str, np.ndarray]) -> "Sample":
        boxes = self._crops(sample)
        for candidate in self._candidates(sample):
            source = self.sources[candidate.dataset]
            try:
                text = self._check(candidate, sample)
                for camera in self.requirements.cameras:
                    if source.has_camera(camera.slot):
                        box, out = boxes.get(camera.slot, WHOLE), images[camera.slot]
                        source.read_images(camera, candidate.rows, candidate.mask, box, out)
                return dataclasses.replace(candidate, text=text)
            except BadRecordError as bad:
                self.quarantine.record(source, bad, sample, candidate.attempt)
                for out in images.values():
                    out[:] = 0
        raise AssertionError("candidates end with an error")

    def _plan(self, sample: int) -> tuple[int, int, int]:
        for candidate in self._candidates(sample):
            source = self.sources[candidate.dataset]
            try:
                self._check(candidate, sample)
            except BadRecordError:
                continue
            if not self.quarantine.has_bad_picture(source, candidate.rows[candidate.mask]):
                return candidate.dataset, *source.episode_step(candidate.row)
        raise AssertionError("candidates end with an error")

    def _check(self, candidate: "Sample", sample: int) -> str:
        """The sample's instruction; BadRecordError where it or the numbers cannot be used."""
        source = self.sources[candidate.dataset]
        source.check_numbers(candidate.rows)
        return source.text(candidate.row, self.mixture.generator(Draw.LANGUAGE, sample, candidate.attempt))

    def _crops(self, sample: int) -> dict[str, Box]:
        crop = self.data.crop
        if crop is None:
            return {}
        draw = RandomCrop(crop.scale, crop.ratio)
        generator = self.mixture.generator(Draw.CROP, sample)
        return {slot: draw(generator) for slot in crop.slots}


@dataclasses.dataclass(frozen=True)
class Sample:
    """A window chosen for a row of a batch."""

    dataset: int
    row: int
    """The sampled step."""
    rows: np.ndarray
    mask: np.ndarray
    attempt: int = 0
    text: str = ""


def assemble(
    pipeline: Any,
    normalizers: list[tuple[Normalizer, Normalizer]],
    samples: list[Sample],
    images: dict[str, np.ndarray],
) -> Batch:
    """Numbers, masks and text around pictures that were read."""
    requirements, sources = pipeline.requirements, pipeline.sources
    rows = np.stack([sample.rows for sample in samples])
    mask = np.stack([sample.mask for sample in samples])
    dataset = np.array([sample.dataset for sample in samples])
    (b, w), space = rows.shape, requirements.action_space
    proprio = np.zeros((b, w, space.proprio_width), np.float32)
    action = np.zeros((b, w, space.horizon, space.action_width), np.float32)
    action_mask = np.zeros(action.shape, bool)
    for number in np.unique(dataset):
        here = dataset == number
        normalize_action, normalize_proprio = normalizers[number]
        state, target, valid = sources[number].numbers(rows[here].reshape(-1))
        proprio[here] = normalize_proprio(state).reshape(-1, w, space.proprio_width)
        action[here] = normalize_action(target).reshape(-1, w, *action.shape[2:])
        valid = valid.reshape(-1, w, space.horizon) & mask[here][:, :, None]
        action_mask[here] = valid[..., None]
    tokens, token_mask = tokenize_texts(pipeline.tokenize, [sample.text for sample in samples], requirements)
    masks = {
        slot: mask & np.array([source.has_camera(slot) for source in sources])[dataset][:, None] for slot in images
    }
    ids = [(sample.dataset, *sources[sample.dataset].episode_step(sample.row)) for sample in samples]
    observation = Observation(images, masks, proprio, mask, tokens, token_mask)
    return Batch(observation, action, action_mask, np.array(ids, np.int32))


def tokenize_texts(
    tokenize: Tokenize, texts: list[str], requirements: DataRequirements
) -> tuple[np.ndarray, np.ndarray]:
    tokens, mask = tokenize(texts)
    expected = (len(texts), requirements.text_length)
    assert tokens.shape == mask.shape == expected, f"tokenize gave {tokens.shape}, {expected} expected"
    return np.asarray(tokens, np.int32), np.asarray(mask, bool)


@dataclasses.dataclass(frozen=True)
class _Steps:
    """Grain's view: one element a step."""

    pipeline: Pipeline
    rows: slice

    def __len__(self) -> int:
        return NUM_STEPS

    def __getitem__(self, step: int) -> Batch:
        return self.pipeline.batch(int(step), self.rows)


class Batches(Iterator[Batch]):
    """Batches prepared ahead by threads; `close`, or a `with` block, stops them."""

    def __init__(self, iterator: Any):
        self._iterator = iterator

    def __next__(self) -> Batch:
        return next(self._iterator)

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._iterator.close()
