"""Looks at every record of every shard, and never stops at damage.

    report = verify(read_directory(Path("data/bridge_dataset/1.0.0")), jobs=2)
    report.findings.codes()

Records are streamed, a shard at a time in each process; what is held of the whole dataset is what the checks gather.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import Progress

from data_pipelines.index.dataset_directory import DatasetDirectory, Shard
from data_pipelines.index.tfrecord import Record
from data_pipelines.storage import RemotePath, stamp
from data_pipelines.verification.check import Check, Visit, all_checks
from data_pipelines.verification.checks.version import matching_datasets
from data_pipelines.verification.episode import Episode, Place
from data_pipelines.verification.finding import Findings
from data_pipelines.verification.records import Damage, walk
from data_pipelines.verification.subject import Subject, open_subject
from data_pipelines.workers import start_workers

SMALL_BYTES = 1 << 26
"""Datasets below it are looked at in this process: starting others takes longer."""


@dataclasses.dataclass
class Report:
    findings: Findings
    num_episodes: int = 0
    num_steps: int = 0
    """Of what could be read."""
    remarks: list[str] = dataclasses.field(default_factory=list)
    """What could not be checked."""


@dataclasses.dataclass(frozen=True)
class Unit:
    place: Place
    shard: Shard


def verify(directory: DatasetDirectory, *, jobs: int = 1, all_images: bool = False) -> Report:
    subject = open_subject(directory, all_images=all_images)
    checks = [check() for check in all_checks()]
    report = Report(Findings(), remarks=_remarks(subject))
    for check in checks:
        report.findings.extend(check.of_description(subject))
    console = Console(stderr=True)
    units = list(_units(directory))
    with Progress(console=console, disable=not console.is_terminal) as progress:
        description = f"verify {directory.name} {directory.version}"
        for shard_report, others in progress.track(
            _examined(subject, units, jobs), len(units), description=description
        ):
            report.findings.merge(shard_report.findings)
            report.num_episodes += shard_report.num_episodes
            report.num_steps += shard_report.num_steps
            for check, other in zip(checks, others):
                check.merge(other)
    for check in checks:
        report.findings.extend(check.of_dataset(subject))
    return report


def _remarks(subject: Subject) -> list[str]:
    if subject.spec is None:
        similar = ", ".join(matching_datasets(subject)[:4])
        return [
            f"no file of datasets/ has the name {subject.directory.name!r}: version, cameras, action range, idle steps "
            f"and gripper are not checked" + (f"; its features are those of {similar}" if similar else "")
        ]
    if subject.spec.action_range is None:
        return ["no action range is published: action_out_of_range is not checked"]
    return []


def _units(directory: DatasetDirectory) -> Iterator[Unit]:
    for split, shards in directory.splits.items():
        first_episode = 0
        for shard in shards:
            yield Unit(Place(split, shard.path.name, first_episode), shard)
            first_episode += shard.num_records


Examined = tuple[Report, list[Check]]


def _examined(subject: Subject, units: list[Unit], jobs: int) -> Iterable[Examined]:
    if min(jobs, len(units)) <= 1 or not _is_large(units):
        yield from map(functools.partial(examine, subject), units)
        return
    with contextlib.ExitStack() as stack:
        workers = start_workers(min(jobs, len(units)), _begin, subject)
        stack.callback(workers.shutdown, wait=True, cancel_futures=True)
        yield from workers.map(_examine_here, units)


def _is_large(units: list[Unit]) -> bool:
    num_bytes = 0
    for path in (unit.shard.path for unit in units):
        if isinstance(path, RemotePath) and path.is_of_this_process:
            return False
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            num_bytes += stamp(path).num_bytes
        if num_bytes >= SMALL_BYTES:
            return True
    return False


_subjects: list[Subject] = []
"""Of a worker: sent once, not with every shard."""


def _begin(subject: Subject) -> None:
    _subjects[:] = [subject]


def _examine_here(unit: Unit) -> Examined:
    return examine(_subjects[0], unit)


def examine(subject: Subject, unit: Unit) -> Examined:
    """One shard."""
    checks = [check() for check in all_checks()]
    report = Report(Findings())
    damages: list[tuple[int, Damage]] = []
    num_found = 0
    for number, found in enumerate(walk(unit.shard)):
        if isinstance(found, Record):
            num_found += 1
            try:
                episode = Episode(subject, unit.place, unit.shard, number, found)
            except ValueError as error:
                found = Damage("shard_corrupt", f"the record is {error}, though its checksum holds")
            else:
                report.num_episodes += 1
                report.num_steps += episode.num_steps
                if episode.uneven:
                    others = ", ".join(episode.uneven)
                    found = Damage("shard_corrupt", f"the record has {episode.num_steps} steps, but {others}")
                for check in checks:
                    report.findings.extend(check.of_episode(episode))
        if isinstance(found, Damage):
            damages.append((number, found))
    visit = Visit(unit.place, unit.shard.num_records, num_found, tuple(damages))
    for check in checks:
        report.findings.extend(check.of_shard(visit))
    return report, checks
