"""metrics.jsonl and its mirrors.

The file is append-only. Each start writes `{"event": "start", "restored_step": N, "time": ...}`; steps after N that the
interrupted process had already logged come again below it, with the same values. Readers that want one line a
step take the last one. A last line that was torn by a kill is cut at the next start.
"""

import datetime
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vla_jax.types import InputError

Line = dict[str, Any]


class Mirror(Protocol):
    """Where else logged steps go."""

    def write(self, step: int, values: dict[str, float]) -> None: ...
    def close(self) -> None: ...


def step_line(step: int, metrics: dict[str, Any], rates: Line) -> Line:
    """Args: metrics: of the training step, on the host. rates: speed since the last logged step, and goodput."""
    line = {
        "step": step,
        "loss": float(metrics["loss"]),
        "loss_hex": float(metrics["loss"]).hex(),
        "batch_digest": batch_digest(metrics["sample_ids"]),
    } | rates
    line |= {
        name: float(metrics[name])
        for name in ("grad_norm", "learning_rate", "ema_norm", "num_skipped")
        if name in metrics
    }
    if taken := sorted(line.keys() & metrics["terms"].keys()):
        raise InputError(f"the policy's loss term {taken[0]!r} has the name of a metric; rename the term")
    return line | {name: float(value) for name, value in metrics["terms"].items()}


def batch_digest(sample_ids: np.ndarray) -> str:
    """First 16 hex digits of the sha256 over the ids [b, 3] of the global batch, int32 little-endian."""
    return hashlib.sha256(np.ascontiguousarray(sample_ids, dtype="<i4").tobytes()).hexdigest()[:16]


class MetricsLog:
    """Appends lines; each is handed to the operating system whole, so that only a power cut can tear one."""

    def __init__(
        self,
        path: Path,
        *,
        restored_step: int,
        started: datetime.datetime | None = None,
        mirrors: tuple[Mirror, ...] = (),
    ):
        """Args: started: when this start began; now, if it is not given."""
        cut_torn_line(path)
        self._stream = path.open("a")
        self._mirrors = mirrors
        time = (started or datetime.datetime.now(datetime.UTC)).isoformat(timespec="milliseconds")
        self._append({"event": "start", "restored_step": restored_step, "time": time})

    def write(self, line: Line) -> None:
        self._append(line)
        values = {name: value for name, value in line.items() if isinstance(value, float) and math.isfinite(value)}
        for mirror in self._mirrors:
            mirror.write(line["step"], values)

    def close(self) -> None:
        self._stream.close()
        for mirror in self._mirrors:
            mirror.close()

    def _append(self, line: Line) -> None:
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()


def cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def read_lines(path: Path) -> list[Line]:
    """All of them, as they were written; a torn last line is none, nor is a file that is not there yet."""
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
    return [json.loads(line) for line in whole.splitlines()]


def read_metrics(path: Path) -> list[Line]:
    """Lines of logged steps, one a step (the last one written), in order."""
    by_step = {line["step"]: line for line in read_lines(path) if "step" in line}
    return [by_step[step] for step in sorted(by_step)]


def open_mirrors(names: tuple[str, ...], run: Path, *, run_name: str, config: dict[str, Any]) -> tuple[Mirror, ...]:
    """Imports a logger's package only if it was asked for."""
    makers = {"tensorboard": lambda: TensorBoard(run), "wandb": lambda: WeightsAndBiases(run, run_name, config)}
    return tuple(makers[name]() for name in names)


class TensorBoard:
    def __init__(self, run: Path):
        try:
            import tensorboardX
        except ImportError as error:
            raise _absent("tensorboard", "tensorboardX") from error
        self._writer = tensorboardX.SummaryWriter(str(run / "tensorboard"))

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    def __init__(self, run: Path, run_name: str, config: dict[str, Any]):
        try:
            import wandb
        except ImportError as error:
            raise _absent("wandb", "wandb") from error
        identity = hashlib.sha256(str(run.absolute()).encode()).hexdigest()[:16]
        self._run = wandb.init(
            project="vla_jax", name=run_name, id=identity, resume="allow", dir=str(run), config=config
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


def _absent(logger: str, package: str) -> InputError:
    return InputError(
        f"loggers: {logger} was asked for, but {package} is not installed; run `pip install {package}` "
        "or leave it out of --loggers"
    )
