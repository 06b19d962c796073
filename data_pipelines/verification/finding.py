"""What a check says, and how much of it is kept."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]
MOST_A_CODE = 1000
"""Findings of one code that are kept; all are counted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    code: str
    severity: Severity
    """error: training stops or learns wrong numbers. warning: it learns less than it seems to. info: know it."""
    split: str | None = None
    shard: str | None = None
    """File name."""
    episode: int | None = None
    """Of the split, as dataset_info.json's shardLengths count; None: of the whole shard, split or dataset."""
    step: int | None = None
    message: str


class Findings:
    """In the order in which they are added, bounded."""

    def __init__(self, findings: Iterable[Finding] = ()):
        self.totals: Counter[str] = Counter()
        self._kept: dict[str, list[Finding]] = {}
        self.extend(findings)

    def extend(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            self.totals[finding.code] += 1
            kept = self._kept.setdefault(finding.code, [])
            if len(kept) < MOST_A_CODE:
                kept.append(finding)

    def merge(self, other: "Findings") -> None:
        left_out = {code: other.totals[code] - len(kept) for code, kept in other._kept.items()}
        self.extend(other)
        self.totals.update(left_out)

    def __iter__(self) -> Iterator[Finding]:
        """By code."""
        for kept in self._kept.values():
            yield from kept

    def __len__(self) -> int:
        return self.totals.total()

    def of(self, code: str) -> list[Finding]:
        return self._kept.get(code, [])

    def codes(self) -> list[str]:
        """Errors first."""
        order = ("error", "warning", "info")
        return sorted(self._kept, key=lambda code: (order.index(self._kept[code][0].severity), code))

    def tree(self) -> list[dict[str, Any]]:
        """`findings` of `verify --json`; a last entry of a code says how many were left out."""
        entries = []
        for code in self.codes():
            entries += [dataclasses.asdict(finding) for finding in self._kept[code]]
            if left_out := self.totals[code] - len(self._kept[code]):
                message = f"{self.totals[code]} findings of this code; the other {left_out} are not listed"
                entries.append(
                    dataclasses.asdict(Finding(code=code, severity=self._kept[code][0].severity, message=message))
                )
        return entries
