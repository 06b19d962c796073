"""Where a run's wall time goes: seconds since its first start, over all starts, by what they went to.

    step         forward, backward, update, and the logging between: what the run is for
    start        imports, the data's index, building, the first batch
    restore      the newest checkpoint: digests, and reading it
    compile      the first step of a start
    data_wait    batches that were not ready
    save         what a checkpoint blocks; the rest of it is written beside the steps
    interrupted  nobody ran, or ran steps that were lost with a kill and done again

Goodput is the share of `step`. One phase is under way at any time: `current` is the time stamp that the watchdog looks
at. On the devices up to two steps run ahead, so that a phase's seconds are right but for these.
"""

import contextlib
import datetime
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

Phase = Literal["step", "start", "restore", "compile", "data_wait", "save", "interrupted"]


class Goodput:
    def __init__(self, *, age_seconds: float = 0.0):
        """Args: age_seconds: how long this start has lasted already."""
        now = time.monotonic()
        self.started = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=age_seconds)
        self.current: tuple[Phase, float] = ("start", now - age_seconds)
        """The phase that is under way, and the value of `time.monotonic` when it began."""
        self._seconds: dict[Phase, float] = dict.fromkeys(get_args(Phase), 0.0)

    @contextlib.contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """The body is `name`; after it, what was before goes on."""
        before = self.begin(name)
        try:
            yield
        finally:
            self.begin(before)

    def begin(self, name: Phase) -> Phase:
        """From now on it is `name`. Returns: what it was."""
        now, (phase, since) = time.monotonic(), self.current
        self._seconds[phase] += now - since
        self.current = (name, now)
        return phase

    def resume(self, lines: list[dict[str, Any]], restored_step: int) -> None:
        """Adds what earlier starts recorded, up to the step that was restored; what they did after it is lost.

        Args: lines: of metrics.jsonl, in the order in which they were written.
        """
        starts = [line["time"] for line in lines if line.get("event") == "start"]
        if not starts:
            return
        kept = [line["wall_seconds"] for line in lines if line.get("step", restored_step + 1) <= restored_step]
        recorded: dict[Phase, float] = kept[-1] if kept else {}
        since_first = (self.started - datetime.datetime.fromisoformat(starts[0])).total_seconds()
        self._seconds["interrupted"] += max(0.0, since_first - sum(recorded.values()))
        for name, seconds in recorded.items():
            self._seconds[name] += seconds

    def seconds(self) -> dict[Phase, float]:
        """Of every phase, until now; together the wall time since the run's first start."""
        self.begin(self.current[0])
        return dict(self._seconds)

    def report(self) -> dict[str, Any]:
        """Of a metrics line."""
        seconds = self.seconds()
        whole = sum(seconds.values())
        share = seconds["step"] / whole if whole else 0.0
        return {"goodput": share, "wall_seconds": {name: round(spent, 3) for name, spent in seconds.items()}}


def process_age() -> float:
    """Seconds since this process was started: importing JAX is some of them."""
    after_the_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(after_the_name[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
