"""Preemption: SIGTERM or SIGINT asks the loop to save and stop; a second one ends the process at once.

With several processes all must stop after the same step, so there the notice is agreed on through JAX's
coordination service, which catches SIGTERM itself; our handlers are installed in single-process runs only.
"""

import os
import signal

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 75
"""EX_TEMPFAIL: the checkpoint is committed; run the same command again."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preemption:
    """A context manager: while it is open, signals set a flag that the loop polls at each step."""

    def __init__(self):
        self._received: int | None = None
        self._previous = {}

    def __enter__(self) -> "Preemption":
        if jax.process_count() == 1:
            self._previous = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame) -> None:
        if self._received is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._received = number

    @property
    def signal_name(self) -> str:
        return "a notice of the scheduler" if self._received is None else signal.Signals(self._received).name

    def requested(self, step: int) -> bool:
        """Whether to stop after `step`; every process gets the same answer for the same step."""
        if jax.process_count() == 1:
            return self._received is not None
        return multihost_utils.reached_preemption_sync_point(step)
