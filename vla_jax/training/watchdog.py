"""Ends a process that hangs, so that its launcher starts it again.

A thread looks at the time stamp of the phase that is under way; the loop does nothing for it. When a phase lasts too
long (a stalled loader, a peer that is gone, a device that does not answer) the stacks of all threads go to standard
error and to the host's log, and the process ends with 75: the checkpoints are whole, run the same command again. Where
not even this thread can go on (a library holds the interpreter's lock, the log's file system hangs), faulthandler's own
thread does the same a little later, with exit code 1.
"""

import dataclasses
import faulthandler
import logging
import os
import threading
import time
from pathlib import Path

from vla_jax.training.goodput import Goodput, Phase
from vla_jax.training.preemption import EXIT_CODE
from vla_jax.types import InputError

log = logging.getLogger(__name__)

_OF_A_STEP: tuple[Phase, ...] = ("step", "data_wait")
_STANDARD_ERROR = 2
_LAST_WORDS_SECONDS = 10.0
"""For the last lines of the log, and how much later than a hung step faulthandler comes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WatchdogConfig:
    """How long a process may take before it is ended with exit code 75."""

    step_seconds: float = 600.0
    """For a step, or for the batch that it waits for."""
    slow_seconds: float = 7200.0
    """For the parts of a start (restoring, the first batch, the first step with its compilation), and for a save."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) <= 0:
                raise InputError(f"watchdog.{field.name}={getattr(self, field.name)}: more than 0 is expected")

    def allows(self, phase: Phase) -> float:
        return self.step_seconds if phase in _OF_A_STEP else self.slow_seconds


class Watchdog:
    """A context manager: while it is open, a hang ends the process."""

    def __init__(self, config: WatchdogConfig, goodput: Goodput, host_log: Path):
        self._config = config
        self._goodput = goodput
        self._host_log = host_log
        self._poll_seconds = min(1.0, config.step_seconds / 10, config.slow_seconds / 10)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            _end_by_faulthandler(self._config.step_seconds + _LAST_WORDS_SECONDS)
            phase, since = self._goodput.current
            if time.monotonic() - since > self._config.allows(phase):
                self._end(phase)
        faulthandler.cancel_dump_traceback_later()

    def _end(self, phase: Phase) -> None:
        _end_by_faulthandler(_LAST_WORDS_SECONDS)
        faulthandler.dump_traceback(file=_STANDARD_ERROR)
        key = "step_seconds" if phase in _OF_A_STEP else "slow_seconds"
        try:
            log.critical(
                "%s has lasted longer than watchdog.%s=%g: this process hangs. Exit code %d: the same command goes on "
                "from the newest checkpoint",
                *(phase, key, getattr(self._config, key), EXIT_CODE),
            )
            self._host_log.parent.mkdir(parents=True, exist_ok=True)
            with self._host_log.open("a") as stream:
                faulthandler.dump_traceback(file=stream)
        finally:
            os._exit(EXIT_CODE)


def _end_by_faulthandler(seconds: float) -> None:
    """In so many seconds, unless it is asked again before. Needs neither the interpreter's lock nor a file system."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=_STANDARD_ERROR)
