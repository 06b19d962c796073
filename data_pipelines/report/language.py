"""What the instructions of a split are like: how long, and which are frequent.

Axes: step (all episodes in order).
"""

import dataclasses

import numpy as np

from data_pipelines.report.histogram import Histogram, whole_numbers

MOST_FREQUENT = 12
MOST_LETTERS = 160
MOST_WORDS = 40
"""Longer ones count as this many."""


@dataclasses.dataclass(frozen=True)
class Language:
    num_distinct: int
    unlabeled: float
    """Share of the steps without an instruction."""
    words: Histogram | None
    """Of an instruction, by steps; None where there are none."""
    frequent: tuple[tuple[str, float], ...]
    """The most frequent instructions and their shares of all instructions of all steps."""


def describe_language(columns: list[np.ndarray], texts: list[str]) -> Language:
    """Args: columns: int32[step] each, into `texts`, one a language key."""
    counts = sum((np.bincount(column, minlength=len(texts)) for column in columns), np.zeros(len(texts), np.int64))
    is_given = np.array([bool(text) for text in texts], bool)
    given = np.flatnonzero(is_given & (counts > 0))
    num_steps = max(map(len, columns), default=0)
    labeled = np.zeros(num_steps, bool)
    for column in columns:
        labeled |= is_given[column] if len(texts) else False
    words = np.array([len(texts[number].split()) for number in given], np.int64)
    order = given[np.argsort(-counts[given], kind="stable")][:MOST_FREQUENT]
    total = max(1, int(counts[given].sum()))
    return Language(
        num_distinct=len(given),
        unlabeled=1 - float(labeled.mean()) if num_steps else 0.0,
        words=whole_numbers("words", np.minimum(words, MOST_WORDS), counts[given]) if len(given) else None,
        frequent=tuple((shown(texts[number]), int(counts[number]) / total) for number in order),
    )


def shown(text: str) -> str:
    """Bytes that are not UTF-8 as question marks, long ones cut."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS - 1] + "…"
