"""Where the time of a batch goes: the pipeline's own functions, as the trainer calls them, under a profiler."""

import cProfile
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any, NamedTuple

from data_pipelines.boxes import Boxes
from data_pipelines.mixture import Mixture
from data_pipelines.normalization import Normalizer
from data_pipelines.pipeline import Pipeline
from data_pipelines.reading import one_by_one
from data_pipelines.source import Source
from data_pipelines.transforms.boxes import MoveBoxes
from data_pipelines.transforms.decode import Decode
from data_pipelines.transforms.depth import DecodeDepth
from data_pipelines.transforms.resize import Resize
from data_pipelines.variation import Variation

NUM_BATCHES = 5
STAGES: dict[str, tuple[Callable[..., Any], ...]] = {
    "choose windows": (Mixture.planned, Mixture.replacement),
    "decode": (Decode.__call__, DecodeDepth.__call__),
    "draw crop and task": (Variation.geometries, Variation.task),
    "cut and resize": (Resize.__call__,),
    "find instruction": (Source.text,),
    "gather numbers": (Source.gather, Source.check_numbers),
    "normalise": (Normalizer.__call__,),
    "boxes": (Boxes.at, MoveBoxes.__call__),
}
"""Functions none of which calls another; those of reader, action space and tokenizer join them."""


@dataclasses.dataclass(frozen=True)
class Stage:
    name: str
    milliseconds: float
    """Of one batch, wall clock."""
    calls: float
    """Of one batch."""


@dataclasses.dataclass(frozen=True)
class Timing:
    stages: tuple[Stage, ...]
    """The dearest first; under a profiler, which slows Python down."""
    milliseconds: float
    """Of one batch, wall clock, without the profiler."""
    cpu_milliseconds: float
    """Of one batch, all threads."""
    num_samples: int
    """Of one batch."""
    num_pictures: float
    """Decoded for one batch."""

    @property
    def images_per_cpu_second(self) -> float:
        return 1000 * self.num_pictures / self.cpu_milliseconds


def time_batches(pipeline: Pipeline, step: int, num_samples: int) -> Timing:
    """Batches from `step` on, as many rows of each as wanted, one row after another."""
    pipeline = dataclasses.replace(pipeline, read_all=one_by_one)
    steps, rows = range(step + 1, step + 1 + NUM_BATCHES), slice(0, num_samples)
    pipeline.batch(step, rows)  # opens shards, makes tables
    wall, cpu = time.perf_counter(), time.process_time()
    for number in steps:
        pipeline.batch(number, rows)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    spent = _profiled(pipeline, steps, rows)
    stages = tuple(
        Stage(name, 1000 * seconds / NUM_BATCHES, calls / NUM_BATCHES)
        for name, (seconds, calls) in sorted(spent.items(), key=lambda item: -item[1].seconds)
        if calls
    )
    pictures = next(stage.calls for stage in stages if stage.name == "decode")
    return Timing(stages, 1000 * wall / NUM_BATCHES, 1000 * cpu / NUM_BATCHES, num_samples, pictures)


class _Spent(NamedTuple):
    seconds: float = 0.0
    calls: int = 0


def _profiled(pipeline: Pipeline, steps: Sequence[int], rows: slice) -> dict[str, _Spent]:
    """By stage; `the rest` is what none of the others has."""
    of_code = {_code(function): name for name, given in _functions(pipeline).items() for function in given}
    profile = cProfile.Profile()
    began = time.perf_counter()
    for number in steps:
        profile.runcall(pipeline.batch, number, rows)
    whole = time.perf_counter() - began
    spent = dict.fromkeys(_functions(pipeline), _Spent())
    for entry in profile.getstats():
        name = of_code.get(entry.code) if isinstance(entry.code, CodeType) else None
        if name is not None:
            spent[name] = _Spent(spent[name].seconds + entry.totaltime, spent[name].calls + entry.callcount)
    rest = whole - sum(seconds for seconds, _ in spent.values())
    return spent | {"the rest": _Spent(rest, len(steps))}


def _functions(pipeline: Pipeline) -> dict[str, tuple[Callable[..., Any], ...]]:
    readers = {type(source.reader) for source in pipeline.sources}
    forms = {source.form for source in pipeline.sources}
    return STAGES | {
        "read bytes": tuple(f for reader in readers for f in (reader.visit, reader.read)),
        "proprio and targets": tuple(f for form in forms for f in (form.proprio, form.targets)),
        "tokenise": (pipeline.assembler.tokenize,),
    }


def _code(function: Callable[..., Any]) -> CodeType:
    function = function.func if isinstance(function, functools.partial) else function
    return function.__code__ if hasattr(function, "__code__") else type(function).__call__.__code__
