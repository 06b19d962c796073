"""Scripted experts in parallel to an RLDS dataset: OUT/NAME/VERSION, in TFDS layout.

    generate(DemonstrationConfig(...), Path("data"), jobs=2)

An episode is a pure function of the settings and its number: where the expert fails, the failure is counted and the
number's next initial state is tried. A shard is one unit of work, finished or not there, in OUT/.NAME-DIGEST until all
are; so a run that was stopped goes on, and ends with the same bytes as one that was not.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data_pipelines.cache import new_folder, write_json
from data_pipelines.demos import recording
from data_pipelines.demos.recording import Trial
from data_pipelines.discovery import find_dataset
from data_pipelines.index.tfrecord import write_records
from data_pipelines.workers import start_workers
from data_pipelines.writer import Contents, DatasetWriter
from vla_jax.environments import graphics
from vla_jax.environments.base import (
    EVALUATION_STATES,
    Environment,
    check_image_size,
    find_environment,
    open_environment,
)
from vla_jax.types import InputError

EPISODES_PER_SHARD = 25
VALIDATION_SHARE = 0.1
ATTEMPTS = 32
"""A number's initial states; were all to fail, the expert would be broken."""
REPORT = "demonstrations.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemonstrationConfig:
    environment: str
    embodiment: str
    suites: tuple[str, ...]
    """Episodes are spread evenly over suites, and in each over its tasks."""
    without_tasks: tuple[str, ...] | None = None
    """Left out of their suites, so that an evaluation can tell what was seen from what was not."""
    episodes: int
    """Of both splits; a tenth is `val`."""
    seed: int = 0
    image_size: int = 224
    noise: float = 0.1
    """See `Trial.noise`."""

    def __post_init__(self):
        check_image_size(self.image_size)
        module = find_environment(self.environment)
        if self.embodiment not in module.EMBODIMENTS:
            raise InputError(f"--embodiment {self.embodiment}: {self.environment} has {sorted(module.EMBODIMENTS)}")
        if unknown := [suite for suite in self.suites if suite not in module.SUITES] or not self.suites:
            raise InputError(f"--suite {unknown}: {self.environment} has {sorted(module.SUITES)}")
        tasks = {task for suite in self.suites for task in module.SUITES[suite]}
        if unknown := sorted(set(self.without_tasks or ()) - tasks):
            raise InputError(f"--without-tasks {unknown}: the suites have {sorted(tasks)}")
        if empty := [suite for suite in self.suites if not self.tasks(suite)]:
            raise InputError(f"--without-tasks {self.without_tasks}: nothing is left of {empty}")
        if self.episodes < 2:
            raise InputError(f"--episodes {self.episodes}: at least 2 expected, one each for train and val")
        if not 0 <= self.seed < 2**31:
            raise InputError(f"--seed {self.seed}: 0 to 2147483647 expected")
        if not 0 <= self.noise <= 1:
            raise InputError(f"--noise {self.noise}: 0 to 1 strides of the expert expected")

    @property
    def dataset(self) -> str:
        return f"{self.environment}_{self.embodiment}"

    def splits(self) -> dict[str, range]:
        """Episode numbers of each split."""
        train = self.episodes - max(1, round(self.episodes * VALIDATION_SHARE))
        return {"train": range(train), "val": range(train, self.episodes)}

    def tasks(self, suite: str) -> list[str]:
        left_out = self.without_tasks or ()
        return [task for task in find_environment(self.environment).SUITES[suite] if task not in left_out]

    def trials(self, number: int) -> Iterator[Trial]:
        """What is attempted for an episode number, in order. No initial state occurs under two numbers or seeds."""
        suite = self.suites[number % len(self.suites)]
        tasks = self.tasks(suite)
        task = tasks[number // len(self.suites) % len(tasks)]
        first = EVALUATION_STATES + (self.seed << 32) + number * ATTEMPTS
        for attempt in range(ATTEMPTS):
            yield Trial(suite, task, first + attempt, self.seed, self.noise)


@dataclasses.dataclass(frozen=True)
class Unit:
    """A shard that is to be made."""

    split: str
    number: int
    episodes: range


def generate(config: DemonstrationConfig, out: Path, *, jobs: int, install: bool = False) -> dict[str, Any]:
    """Makes what is missing of the dataset; gives its report, also found in REPORT beside the shards.

    Args:
        config: What to make.
        out: The data root; the dataset goes to OUT/NAME/VERSION.
        jobs: Processes.
        install: As root, install a GL library where none renders.

    Raises: InputError: OUT/NAME/VERSION was made with other settings, or pictures cannot be rendered.
    """
    folder = out / config.dataset / find_dataset(config.dataset).spec.version
    if folder.exists():
        return _found(folder, config)
    graphics.require_backend(install=install)
    work = out / f".{config.dataset}-{_digest(config)[:16]}"
    work.mkdir(parents=True, exist_ok=True)
    units = [
        Unit(split, number, numbers[start : start + EPISODES_PER_SHARD])
        for split, numbers in config.splits().items()
        for number, start in enumerate(range(0, len(numbers), EPISODES_PER_SHARD))
    ]
    _make_all(config, units, work, jobs)
    report = _assemble(config, units, work, folder)
    shutil.rmtree(work)
    return report


def _found(folder: Path, config: DemonstrationConfig) -> dict[str, Any]:
    try:
        report = json.loads((folder / REPORT).read_text())
        made_with = report["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder}: there already, and not made by this command ({error}); name another --out"
        ) from error
    asked_for = json.loads(json.dumps(dataclasses.asdict(config)))
    if other := sorted(key for key in asked_for.keys() | made_with.keys() if asked_for.get(key) != made_with.get(key)):
        found = ", ".join(f"{key} {made_with.get(key)} (asked for: {asked_for.get(key)})" for key in other)
        raise InputError(f"{folder}: there already, made with {found}; delete it or name another --out")
    return report


def _digest(config: DemonstrationConfig) -> str:
    """Of the settings and of the code behind the episodes, so that shards of two versions never mix."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(config), sort_keys=True).encode())
    environment = Path(str(find_environment(config.environment).__file__)).parent
    for folder in (environment, Path(__file__).parent):
        for file in sorted(folder.glob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _make_all(config: DemonstrationConfig, units: list[Unit], work: Path, jobs: int) -> None:
    todo = [unit for unit in units if not _notes(work, unit).is_file()]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(f"{config.dataset} episodes", total=config.episodes)
        progress.advance(bar, config.episodes - sum(len(unit.episodes) for unit in todo))
        if jobs == 1 or len(todo) <= 1:
            for unit in todo:
                progress.advance(bar, _make(config, unit, work))
            return
        with start_workers(min(jobs, len(todo))) as pool:
            futures = [pool.submit(_make, config, unit, work) for unit in todo]
            try:
                for future in concurrent.futures.as_completed(futures):
                    progress.advance(bar, future.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


_environments: dict[tuple[str, str, int], Environment] = {}
"""Of this process: building one costs more than an episode."""


def _make(config: DemonstrationConfig, unit: Unit, work: Path) -> int:
    """Writes a unit's shard and, as the sign that it is whole, its notes; gives its number of episodes."""
    key = (config.environment, config.embodiment, config.image_size)
    if key not in _environments:
        _environments[key] = open_environment(key[0], embodiment=key[1], image_size=key[2])
    environment, module = _environments[key], find_environment(config.environment)
    writer = _writer(config, environment)
    records, failures, num_steps = [], Counter[str](), 0
    for number in unit.episodes:
        for trial in config.trials(number):
            if (episode := recording.record(environment, module.build_expert, trial)) is not None:
                break
            failures[trial.task] += 1
        else:
            raise InputError(
                f"the expert of {config.environment}/{config.embodiment} failed {ATTEMPTS} times in a row at "
                f"{trial.task} (--noise {config.noise}); lower the noise"
            )
        num_steps += len(episode["steps/action"])
        records.append(writer.encode(episode))
    shard = _shard(work, unit)
    temporary = shard.with_name(f".{shard.name}.{os.getpid()}")
    with temporary.open("wb") as stream:
        write_records(stream, records)
    temporary.replace(shard)
    notes = {"failures": failures, "num_steps": num_steps, "num_bytes": sum(map(len, records))}
    write_json(_notes(work, unit), notes)
    return len(records)


def _assemble(config: DemonstrationConfig, units: list[Unit], work: Path, folder: Path) -> dict[str, Any]:
    with open_environment(config.environment, embodiment=config.embodiment, image_size=None) as environment:
        writer = _writer(config, environment)
    notes = [json.loads(_notes(work, unit).read_text()) for unit in units]
    contents: dict[str, list[Contents]] = {split: [] for split in config.splits()}
    failures = Counter[str]()
    for unit, noted in zip(units, notes):
        contents[unit.split].append(Contents(len(unit.episodes), noted["num_bytes"]))
        failures.update(noted["failures"])
    report = {
        "settings": dataclasses.asdict(config),
        "episodes": {split: len(numbers) for split, numbers in config.splits().items()},
        "steps": sum(noted["num_steps"] for noted in notes),
        "failures": dict(sorted(failures.items())),
        "expert_success_rate": config.episodes / (config.episodes + failures.total()),
    }
    with new_folder(folder) as temporary:
        for unit in units:
            name = writer.shard_name(unit.split, unit.number, len(contents[unit.split]))
            os.link(_shard(work, unit), temporary / name)
        writer.describe(temporary, contents)
        (temporary / REPORT).write_text(json.dumps(report, indent=1) + "\n")
        temporary.chmod(0o755)
    return report


def _writer(config: DemonstrationConfig, environment: Environment) -> DatasetWriter:
    spec = find_dataset(config.dataset).spec
    return DatasetWriter(spec.name, spec.version, recording.features(environment.spec, config.image_size))


def _shard(work: Path, unit: Unit) -> Path:
    return work / f"{unit.split}-{unit.number:05d}.tfrecord"


def _notes(work: Path, unit: Unit) -> Path:
    return work / f"{unit.split}-{unit.number:05d}.json"
