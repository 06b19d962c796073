"""The form of a check. Those of `checks/` are found by listing the folder."""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any, ClassVar

from data_pipelines.verification.episode import Episode, Place
from data_pipelines.verification.finding import Finding, Severity
from data_pipelines.verification.records import Damage
from data_pipelines.verification.subject import Subject


@dataclasses.dataclass(frozen=True)
class Visit:
    """A shard that was walked to its end."""

    place: Place
    num_listed: int
    num_found: int
    damages: tuple[tuple[int, Damage], ...]
    """Each with its place among the records."""


class Check:
    """One code. A subclass's docstring says what exactly it means, its threshold, and why it matters.

    One object sees the episodes of one shard and is then merged into that of the shards before; what it gathers
    about the dataset is small.
    """

    code: ClassVar[str]
    severity: ClassVar[Severity]

    def of_description(self, subject: Subject) -> Iterator[Finding]:
        """Of dataset_info.json and features.json."""
        yield from ()

    def of_shard(self, visit: Visit) -> Iterator[Finding]:
        yield from ()

    def of_episode(self, episode: Episode) -> Iterator[Finding]:
        yield from ()

    def merge(self, other: Any) -> None:
        """Args: other: The same check after the next shard."""

    def of_dataset(self, subject: Subject) -> Iterator[Finding]:
        """After all shards."""
        yield from ()

    def finding(self, message: str, *, step: int | None = None, **place: Any) -> Finding:
        return Finding(code=self.code, severity=self.severity, step=step, message=message, **place)

    def at(self, episode: Episode, message: str, step: int | None = None) -> Finding:
        return self.finding(
            message, step=step, split=episode.place.split, shard=episode.place.shard, episode=episode.number
        )


def all_checks() -> list[type[Check]]:
    """By code."""
    from data_pipelines.verification import checks

    found = set()
    for info in pkgutil.iter_modules(checks.__path__):
        module = importlib.import_module(f"{checks.__name__}.{info.name}")
        for _, member in inspect.getmembers(module, inspect.isclass):
            if issubclass(member, Check) and hasattr(member, "code"):
                found.add(member)
    return sorted(found, key=lambda check: check.code)
