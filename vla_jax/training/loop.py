"""The training loop: batches in, metrics lines and checkpoints out.

A step costs the host one jitted call. At most `_STEPS_IN_FLIGHT` steps are dispatched and unfinished, so the
wait for data that is logged is time in which the devices run dry, give or take those steps. Metrics come to the
host only at steps that are logged or saved; there a loss or gradient that was not finite at any step since
stops the run before anything is written, and the last good checkpoint stays what it is. What the time goes to is
kept by `goodput`, whose time stamps the watchdog looks at.
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
from vla_jax.training.goodput import Goodput, Phase
from vla_jax.training.loader import Loader
from vla_jax.training.metrics import Line, MetricsLog, open_mirrors, read_lines, step_line
from vla_jax.training.preemption import Preemption
from vla_jax.training.profile import Profile
from vla_jax.training.program import Program
from vla_jax.training.state import TrainState
from vla_jax.training.step import Metrics
from vla_jax.training.watchdog import Watchdog
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

    def __init__(
        self,
        program: Program,
        run: RunDirectory,
        pipeline: Pipeline,
        preemption: Preemption,
        *,
        goodput: Goodput | None = None,
        profile: Profile | None = None,
    ):
        self.config = program.config
        self._program = program
        self._run = run
        self._pipeline = pipeline
        self._preemption = preemption
        self._goodput = goodput or Goodput()
        self._profile = profile or Profile()
        self._saved_step = -1

    def run(self, given: Callable[[], Parameters], *, init_from: Path | None = None) -> bool:
        """True: all steps are done. False: preempted; the last finished step is committed.

        Args:
            given: parameters that a fresh run starts from (any subset); called on a fresh start only.
            init_from: where they come from; recorded.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(Watchdog(self.config.watchdog, self._goodput, self._run.log(jax.process_index())))
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
            stack.enter_context(contextlib.closing(self._profile))
            return self._steps(state, frozen, loader, checkpoints, metrics_log)

    def _start(self, checkpoints: Checkpoints, given, init_from) -> tuple[TrainState, Parameters, int]:
        with self._goodput.phase("restore"):
            newest = checkpoints.newest_good()
            if newest is not None:
                return self._restored(checkpoints, newest)
        state, frozen = self._program.initial(given())
        if _is_first():
            provenance.record(self._run, self.config, init_from)
        save_frozen(self._run, frozen)
        return state, self._program.place_frozen(frozen), 0

    def _restored(self, checkpoints: Checkpoints, newest: int) -> tuple[TrainState, Parameters, int]:
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
        self._goodput.resume(read_lines(self._run.metrics), step)
        return MetricsLog(self._run.metrics, restored_step=step, started=self._goodput.started, mirrors=mirrors)

    def _steps(self, state, frozen, loader, checkpoints, metrics_log) -> bool:
        config, goodput, run_step = self.config, self._goodput, self._program.step
        step, metrics = int(state.step), None
        in_flight: collections.deque[jax.Array] = collections.deque()
        pace = _Pace(step, goodput)
        waiting: Phase = "start"
        working: Phase = "compile"  # the first step, which is waited for
        goodput.begin("step")
        with _progress_bar(step, config.num_steps, metrics_log) as write:
            while step < config.num_steps:
                if self._preemption.requested(step):
                    if metrics is not None and step % config.log_every:
                        write(self._line(step, metrics, pace))
                    self._save(step, state, metrics, checkpoints)
                    break
                checkpoints.check()
                with goodput.phase(waiting):
                    batch = next(loader)
                with goodput.phase(working), self._profile.step(step + 1):
                    state, metrics = run_step(state, frozen, batch)
                    in_flight.append(metrics["loss"])
                    if len(in_flight) > _STEPS_IN_FLIGHT or working == "compile":
                        in_flight.popleft().block_until_ready()
                step, waiting, working = step + 1, "data_wait", "step"
                self._profile.end_step(step, metrics["loss"])
                is_last = step == config.num_steps
                if is_last or step % config.log_every == 0:
                    write(self._line(step, metrics, pace))
                if is_last or step % config.checkpoint_every == 0:
                    self._save(step, state, metrics, checkpoints)
        with goodput.phase("save"):
            checkpoints.wait()
        if step < config.num_steps:
            log.warning("%s: stopped after step %d", self._preemption.signal_name, step)
        return step >= config.num_steps

    def _save(self, step: int, state: TrainState, metrics: Metrics | None, checkpoints: Checkpoints) -> None:
        if step == self._saved_step or metrics is None:
            return
        self._on_host(step, metrics)
        with self._goodput.phase("save"):
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

    def _line(self, step: int, metrics: Metrics, pace: "_Pace") -> Line:
        on_host = self._on_host(step, metrics)
        seconds, num_steps, wait = pace.lap(step)
        rates = {
            "samples_per_second": self.config.batch_size * num_steps / seconds,
            "step_seconds": seconds / num_steps,
            "data_wait_fraction": min(1.0, wait / seconds),
            "num_replaced": self._pipeline.num_replaced,
        }
        return step_line(step, on_host, rates | self._goodput.report())


class _Pace:
    """Time, steps and wait for data since the last lap."""

    def __init__(self, step: int, goodput: Goodput):
        self._goodput = goodput
        self._last = (time.perf_counter(), step, goodput.seconds()["data_wait"])

    def lap(self, step: int) -> tuple[float, int, float]:
        """Seconds, steps, seconds waited."""
        now = (time.perf_counter(), step, self._goodput.seconds()["data_wait"])
        before, self._last = self._last, now
        return now[0] - before[0], now[1] - before[1], now[2] - before[2]


@contextlib.contextmanager
def _progress_bar(step: int, num_steps: int, metrics_log: MetricsLog | None) -> Iterator[Callable[[Line], None]]:
    """What writes a metrics line: on a terminal it moves a bar, too; elsewhere it gives one log line."""
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=num_steps, completed=step)

        def write(line: Line) -> None:
            if metrics_log is not None:
                metrics_log.write(line)
            text = f"step {line['step']}/{num_steps} loss {line['loss']:.4f} {line['samples_per_second']:.1f} samples/s"
            progress.update(task, completed=line["step"], description=text)
            if not console.is_terminal:
                log.info(text)

        yield write


def _is_first() -> bool:
    return jax.process_index() == 0
