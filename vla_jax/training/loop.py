"""The training loop: batches in, metrics lines and checkpoints out.

A step costs the host one jitted call. At most `_STEPS_IN_FLIGHT` steps are dispatched and unfinished, so the
wait for data that is logged is time in which the devices run dry, give or take those steps. Metrics come to the
host only at steps that are logged or saved; there a loss or gradient that was not finite at any step since
stops the run before anything is written, and the last good checkpoint stays what it is.
"""

import collections
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import jax
import rich.console
import rich.progress

from vla_jax import config as configuration
from vla_jax import sharding
from vla_jax.run_directory import RunDirectory
from vla_jax.training import provenance
from vla_jax.training.checkpoint import Checkpoints, restore_frozen, save_frozen
from vla_jax.training.loader import Loader
from vla_jax.training.metrics import MetricsLog, open_mirrors, step_line
from vla_jax.training.preemption import Preemption
from vla_jax.training.program import Program
from vla_jax.training.state import TrainState
from vla_jax.training.step import Metrics
from vla_jax.types import Batch, Parameters

log = logging.getLogger(__name__)

_STEPS_IN_FLIGHT = 2


class Pipeline(Protocol):
    """What training asks of `data_pipelines.pipeline`."""

    @property
    def statistics(self) -> dict[str, Any]: ...
    @property
    def num_replaced(self) -> int: ...
    def batches(self, start_step: int, rows: slice) -> Iterator[Batch]: ...


class NonFiniteError(RuntimeError):
    """A loss or gradient is infinite or not a number."""


class Training:
    """One process's part of a run, from its newest good checkpoint to `num_steps` or to a preemption."""

    def __init__(self, program: Program, run: RunDirectory, pipeline: Pipeline, preemption: Preemption):
        self.config = program.config
        self._program = program
        self._run = run
        self._pipeline = pipeline
        self._preemption = preemption
        self._saved_step = -1

    def run(self, given: Callable[[], Parameters], *, init_from: Path | None = None) -> bool:
        """True: all steps are done. False: preempted; the last finished step is committed.

        Args:
            given: parameters that a fresh run starts from (any subset); called on a fresh start only.
            init_from: where they come from; recorded.
        """
        with contextlib.ExitStack() as stack:
            checkpoints = stack.enter_context(
                contextlib.closing(Checkpoints(self._run, keep=self.config.keep_checkpoints))
            )
            state, frozen, next_step = self._start(checkpoints, given, init_from)
            metrics_log = None
            if _is_first():
                metrics_log = stack.enter_context(contextlib.closing(self._open_log(int(state.step))))
            mesh, batch_size = self._program.mesh, self.config.batch_size
            rows = sharding.process_rows(mesh, batch_size)
            source = self._pipeline.batches(next_step, rows=rows)
            loader = stack.enter_context(contextlib.closing(Loader(source, mesh, batch_size=batch_size)))
            return self._steps(state, frozen, loader, checkpoints, metrics_log)

    def _start(self, checkpoints: Checkpoints, given, init_from) -> tuple[TrainState, Parameters, int]:
        newest = checkpoints.newest_good()
        if newest is None:
            state, frozen = self._program.initial(given())
            if _is_first():
                provenance.record(self._run, self.config, init_from)
            save_frozen(self._run, frozen)
            return state, self._program.place_frozen(frozen), 0
        provenance.refuse_other_data(self._run.step(newest), self._pipeline.statistics)
        if _is_first():
            provenance.record(self._run, self.config, provenance.source_of(self._run))
        restored = checkpoints.restore(newest, self._program.state)
        held = {path: shape.sharding for path, shape in self._program.frozen.items()}
        frozen = self._program.place_frozen(restore_frozen(self._run, held))
        log.info(
            "%s: goes on from step %d; --init-from and pretrained weights are not read again", self._run.path, newest
        )
        self._saved_step = newest
        return restored.state, frozen, restored.next_step

    def _open_log(self, step: int) -> MetricsLog:
        mirrors = open_mirrors(
            self.config.loggers, self._run.path, run_name=self.config.name, config=configuration.to_json(self.config)
        )
        return MetricsLog(self._run.metrics, restored_step=step, mirrors=mirrors)

    def _steps(self, state, frozen, loader, checkpoints, metrics_log) -> bool:
        config, run_step = self.config, self._program.step
        step, metrics = int(state.step), None
        in_flight: collections.deque[jax.Array] = collections.deque()
        pace = _Pace(step, loader)
        with _progress_bar(step, config.num_steps) as show:
            while step < config.num_steps:
                if self._preemption.requested(step):
                    self._save(step, state, metrics, checkpoints)
                    checkpoints.wait()
                    log.warning("%s: stopped after step %d", self._preemption.signal_name, step)
                    return False
                checkpoints.check()
                state, metrics = run_step(state, frozen, next(loader))
                step += 1
                in_flight.append(metrics["loss"])
                if len(in_flight) > _STEPS_IN_FLIGHT:
                    in_flight.popleft().block_until_ready()
                is_last = step == config.num_steps
                if is_last or step % config.log_every == 0:
                    line = step_line(step, self._on_host(step, metrics), self._rates(pace, step))
                    if metrics_log is not None:
                        metrics_log.write(line)
                    show(line)
                if is_last or step % config.checkpoint_every == 0:
                    self._save(step, state, metrics, checkpoints)
        checkpoints.wait()
        return True

    def _save(self, step: int, state: TrainState, metrics: Metrics | None, checkpoints: Checkpoints) -> None:
        if step == self._saved_step or metrics is None:
            return
        self._on_host(step, metrics)
        checkpoints.save(state, self.config, self._pipeline.statistics, next_step=step)
        self._saved_step = step

    def _on_host(self, step: int, metrics: Metrics) -> dict[str, Any]:
        """Waits for the step. Raises NonFiniteError where its loss or gradient is not finite."""
        metrics = jax.device_get(metrics)
        if metrics["bad_step"] < 0:
            return metrics
        where = "start again with it"
        if provenance.has_checkpoints(self._run):
            where = f"start in another --run-dir with --init-from {self._run.path}"
        raise NonFiniteError(
            f"step {metrics['bad_step']}: the loss or a gradient was not finite (now, at step {step}: loss "
            f"{metrics['loss']}, grad_norm {metrics['grad_norm']}); nothing was saved since. Where "
            f"the data are sound a lower --optimizer.peak-rate or --optimizer.clip-norm helps: {where}"
        )

    def _rates(self, pace: "_Pace", step: int) -> dict[str, float]:
        seconds, num_steps, wait = pace.lap(step)
        return {
            "samples_per_second": self.config.batch_size * num_steps / seconds,
            "step_seconds": seconds / num_steps,
            "data_wait_fraction": min(1.0, wait / seconds),
            "num_replaced": self._pipeline.num_replaced,
        }


class _Pace:
    """Time, steps and wait for data since the last lap."""

    def __init__(self, step: int, loader: Loader):
        self._loader = loader
        self._last = (time.perf_counter(), step, loader.wait_seconds)

    def lap(self, step: int) -> tuple[float, int, float]:
        """Seconds, steps, seconds waited."""
        now = (time.perf_counter(), step, self._loader.wait_seconds)
        before, self._last = self._last, now
        return now[0] - before[0], now[1] - before[1], now[2] - before[2]


@contextlib.contextmanager
def _progress_bar(step: int, num_steps: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """On a terminal a bar; elsewhere one log line a logged step."""
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=num_steps, completed=step)

        def show(line: dict[str, Any]) -> None:
            text = f"step {line['step']}/{num_steps} loss {line['loss']:.4f} {line['samples_per_second']:.1f} samples/s"
            progress.update(task, completed=line["step"], description=text)
            if not console.is_terminal:
                log.info(text)

        yield show


def _is_first() -> bool:
    return jax.process_index() == 0
