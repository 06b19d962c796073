"""A run's training step, compiled for a pod that is not there: train.py's own program over abstract arrays.

It takes no memory of the model's size, but minutes of all cores and gigabytes for the compiler, which generates code
kernel by kernel, as many at a time as there are cores, and keeps all of it until the last one is done.
"""

import contextlib
import ctypes
import dataclasses
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from vla_jax.training.batch_shapes import batch_shapes
from vla_jax.training.program import Program

_TOO_LARGE = re.compile(r"\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)")
_ARENA_MAX, _TRIM_THRESHOLD = -8, -1
"""Of glibc's mallopt."""
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class DoesNotFitError(Exception):
    """Args: needed, usable: bytes of a chip, as the compiler says."""

    def __init__(self, needed: int, usable: int):
        super().__init__(f"{needed / 2**30:.2f} GiB a chip are needed, {usable / 2**30:.2f} GiB are there")
        self.needed, self.usable = needed, usable


@dataclasses.dataclass(frozen=True)
class Compilation:
    text: str
    """Of the compiled HLO."""
    argument_bytes: int
    """A chip; so are the others. State, frozen parameters and batch; outputs take their place, or are in `output`."""
    output_bytes: int
    """Of outputs that are no argument's place."""
    temporary_bytes: int
    """The most at once, with the gaps between them."""
    code_bytes: int
    seconds: float
    cpu_seconds: float
    peak_host_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.argument_bytes + self.output_bytes + self.temporary_bytes + self.code_bytes


def keep_little_memory() -> None:
    """To be called before the compiler's threads begin: what they free is for one another, and goes back at the end.

    By default glibc gives each its own heap; the gaps in them are a tenth of what DeepVision-VLA's step takes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)
        mallopt(_TRIM_THRESHOLD, 128 * 1024)


def compile_step(program: Program) -> Compilation:
    """Args: program: on a mesh of the devices of `topologies`. Raises: DoesNotFitError."""
    batch = batch_shapes(program.config.policy.data_requirements(), program.config.batch_size)
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        lowered = program.step.lower(program.state, program.frozen, batch)  # type: ignore[attr-defined]
        with _signals_end_at_once():
            compiled: Any = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if found := _TOO_LARGE.search(str(error)):
            needed, usable = (int(float(found[n]) * _UNITS[found[n + 1]]) for n in (1, 3))
            raise DoesNotFitError(needed, usable) from error
        raise
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    memory = compiled.memory_analysis()
    return Compilation(
        text=compiled.as_text(),
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporary_bytes=temporary_bytes(memory),
        code_bytes=memory.generated_code_size_in_bytes,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        peak_host_bytes=_peak_host_bytes(),
    )


@contextlib.contextmanager
def _signals_end_at_once() -> Iterator[None]:
    """Python's own handlers would wait for the compiler: minutes until Ctrl-C is heard."""
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not Python's


def temporary_bytes(memory: Any) -> int:
    """Args: memory: XLA's `CompiledMemoryStats`.

    libtpu's `temp_size_in_bytes` has the gaps between temporaries twice: half as much again for a step that keeps much.
    Its peak has them once, together with arguments and outputs; what is donated is both, and counts as neither. A
    compiler that gives no peak is taken at its word.
    """
    if not memory.peak_memory_in_bytes:
        return memory.temp_size_in_bytes
    donated = memory.alias_size_in_bytes
    others = memory.argument_size_in_bytes + memory.output_size_in_bytes - 2 * donated
    return min(memory.temp_size_in_bytes, max(0, memory.peak_memory_in_bytes - others))


def _peak_host_bytes() -> int:
    """Of this process since it began; getrusage's would begin with its parent's."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0
