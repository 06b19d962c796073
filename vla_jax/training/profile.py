"""`train.py --profile START:STOP`: a trace of these steps, for XProf and Perfetto.

Steps are numbered as in metrics.jsonl, STOP is not among them. Each process writes
RUN/profile/plugins/profile/TIME/HOST.xplane.pb (XProf, TensorBoard) and HOST.trace.json.gz (ui.perfetto.dev).
"""

import contextlib
from pathlib import Path

import jax

from vla_jax.types import InputError


class Profile:
    def __init__(self, steps: range = range(0), folder: Path = Path()):
        self._steps = steps
        self._folder = folder
        self._is_open = False

    def step(self, number: int) -> contextlib.AbstractContextManager:
        """Around the call of a step; the first one opens the trace."""
        if number in self._steps and not self._is_open:
            jax.profiler.start_trace(str(self._folder))
            self._is_open = True
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    def end_step(self, number: int, result: jax.Array) -> None:
        """The last one of them is waited for."""
        if self._is_open and number + 1 not in self._steps:
            result.block_until_ready()
            self.close()

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            jax.profiler.stop_trace()


def steps_to_profile(text: str, num_steps: int) -> range:
    """Args: text: START:STOP. num_steps: of the run."""
    first, colon, stop = text.partition(":")
    if not (colon and first.isdecimal() and stop.isdecimal()):
        raise InputError(f"--profile {text}: START:STOP is expected, two whole numbers, e.g. 100:105")
    steps = range(int(first), int(stop))
    if not steps or steps.start < 1 or steps.start > num_steps:
        raise InputError(
            f"--profile {text}: no such steps; START is from 1 to num_steps={num_steps}, and STOP, the first step that "
            "is not traced, is greater"
        )
    return steps
