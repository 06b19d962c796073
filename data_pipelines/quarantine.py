"""Bad records: each written once to quarantine.jsonl, and a limit on how many samples they may cost."""

import json
import logging
import threading
from pathlib import Path

import numpy as np

from data_pipelines.source import PICTURE, BadRecordError, Source
from vla_jax.types import InputError

FEWEST_SAMPLES = 1000
LOG = logging.getLogger(__name__)


class Quarantine:
    """Counts replaced samples and lists bad records. Safe across threads.

    The run stops when more samples were replaced than `max_bad_share` of those drawn, or of FEWEST_SAMPLES while fewer
    were drawn, so that one bad picture at the start is no alarm (with 0 it is). Two shares are held against it: of this
    process, and of the whole run, so that a run that is often preempted reaches the limit too. Earlier processes
    count with the samples for which a record was listed, which are fewer than those that it cost.
    """

    def __init__(self, path: Path | None, split: str, max_bad_share: float):
        self.path, self.split, self.max_bad_share = path, split, max_bad_share
        self.num_drawn = self.num_replaced = 0
        self._lock = threading.Lock()
        self.num_drawn_before = self.num_replaced_before = 0
        self._listed: set[tuple] = set()
        self._replaced_before: set[int] = set()
        """Samples for which an earlier process listed a record of this split."""
        self._bad: set[tuple[str, int, int]] = set()
        if path is not None and path.exists():
            self._read(path)

    def has_bad_picture(self, source: Source, rows: np.ndarray) -> bool:
        """Among those listed so far, in this start or an earlier one."""
        return bool(self._bad) and any((source.name, *source.episode_step(int(row))) in self._bad for row in rows)

    def record(self, source: Source, bad: BadRecordError, sample: int, attempt: int) -> None:
        episode, step = source.episode_step(bad.row)
        line = {
            "dataset": source.name,
            "split": self.split,
            "episode": episode,
            "step": step,
            "file": source.shard(bad.row).name,
            "offset": bad.offset,
            "reason": bad.reason,
            "sample_index": sample,
            "attempt": attempt,
        }
        with self._lock:
            if (key := _key(line)) in self._listed:
                return
            self._add(line, key)
            LOG.warning("%(dataset)s %(split)s episode %(episode)d step %(step)d replaced: %(reason)s", line)
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a") as stream:
                    stream.write(json.dumps(line) + "\n")

    def resume(self, first_sample: int, drawn: int) -> None:
        """Args: first_sample: the first to be drawn now. drawn: by this host before it, in earlier processes."""
        with self._lock:
            self.num_drawn_before = drawn
            self.num_replaced_before = sum(sample < first_sample for sample in self._replaced_before)
        if self._listed:
            LOG.info(
                "%s: %d bad records are listed, met at %d of the %d samples drawn before this start",
                *(self.path, len(self._listed), self.num_replaced_before, drawn),
            )

    def count(self, drawn: int, replaced: int) -> None:
        with self._lock:
            self.num_drawn += drawn
            self.num_replaced += replaced
            self._hold(self.num_drawn, self.num_replaced)
            self._hold(self.num_drawn + self.num_drawn_before, self.num_replaced + self.num_replaced_before)

    def _hold(self, drawn: int, replaced: int) -> None:
        if replaced > self.max_bad_share * max(drawn, FEWEST_SAMPLES):
            raise InputError(
                f"{replaced} of {drawn} samples had to be replaced, more than "
                f"data.max_bad_share={self.max_bad_share} (of at least {FEWEST_SAMPLES} samples) allows; "
                f"see {self.path or 'the log'} for the records, mend or leave out the dataset, or raise the limit"
            )

    def _read(self, path: Path) -> None:
        """Lines of an earlier start; a torn last one is cut off."""
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) != len(content):
            with path.open("r+b") as stream:
                stream.truncate(len(whole))
        try:
            for line in map(json.loads, whole.splitlines()):
                self._add(line, _key(line))
                if line["split"] == self.split:
                    self._replaced_before.add(int(line["sample_index"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a quarantine file ({error!r}); move it away") from error

    def _add(self, line: dict, key: tuple) -> None:
        self._listed.add(key)
        if line["split"] == self.split and line["reason"].startswith(PICTURE):
            self._bad.add((line["dataset"], line["episode"], line["step"]))


def _key(line: dict) -> tuple:
    return tuple(line[name] for name in ("dataset", "split", "episode", "step", "file", "offset"))
