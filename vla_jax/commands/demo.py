"""From nothing to a robot policy that succeeds: demonstrations, training, closed-loop evaluation, export.

    OUT/data                 demonstrations of both embodiments, RLDS
    OUT/run                  the training run
    OUT/{trained, untrained, images_blacked_out, instructions_shuffled}      closed-loop evaluations
    OUT/pytorch              the exported folder
    OUT/{loss.png, attention.png, summary.json}
    OUT/stages.json          seconds spent on each stage so far

Every stage but the pictures is a command that a person could type, and is printed. What is finished is not done again,
so the demo may be stopped, also by a kill, and started again.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rich.console
import rich.table

from data_pipelines.cache import write_json
from vla_jax.types import InputError

PREEMPTED = 75
"""Exit code of train.py."""
HELP = "demonstrations, training, evaluation and export in one go"
RECIPE = "configs/tabletop_ef_vla.py"
EMBODIMENTS = ("gantry", "arm")
EVALUATIONS = {
    "trained": (),
    "untrained": ("--untrained",),
    "images_blacked_out": ("--probe", "black_images"),
    "instructions_shuffled": ("--probe", "shuffled_instructions"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    episodes: int
    """Of each embodiment."""
    steps: int | None
    """Of training; None: the recipe's."""
    trials: int


FULL = Size(episodes=2000, steps=None, trials=60)
SHORT = Size(episodes=40, steps=20, trials=4)


class Stages:
    """Runs stages one after another and keeps account of their time, over all starts."""

    def __init__(self, file: Path):
        self._file = file
        self.seconds: dict[str, float] = json.loads(file.read_text()) if file.is_file() else {}

    @contextlib.contextmanager
    def time(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started
            write_json(self._file, self.seconds)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--short", action="store_true", help="every stage, minutes long, learns nothing")


def run(options: argparse.Namespace) -> int:
    if not Path(RECIPE).is_file():
        raise InputError(f"{RECIPE} is not here: start the demo in the project's folder")
    out, size = options.out, SHORT if options.short else FULL
    _refuse_other_size(out, size)
    stages = Stages(out / "stages.json")
    for embodiment in EMBODIMENTS:
        with stages.time(f"demonstrations_{embodiment}"):
            _demonstrations(out, size, embodiment)
    with stages.time("training"):
        _training(out, size)
    for name, arguments in EVALUATIONS.items():
        if not (out / name / "summary.json").is_file():
            with stages.time(name):
                trials = ["--env", "tabletop:reach", "--trials", size.trials, "--seed", 0, *arguments]
                _python("eval.py", "--checkpoint", out / "run", *trials, "--out", out / name)
    if not (out / "pytorch" / "parity.json").is_file():
        with stages.time("export"):
            _python("-m", "vla_jax", "export", "--checkpoint", out / "run", "--to", "hf", "--out", out / "pytorch")
    with stages.time("pictures"):
        _pictures(out)
    summary = _summary(out, stages)
    write_json(out / "summary.json", summary)
    _print(summary, out)
    return 0


def _refuse_other_size(out: Path, size: Size) -> None:
    """A short demo and a whole one never share a folder."""
    file, wanted = out / "size.json", dataclasses.asdict(size)
    if file.is_file() and json.loads(file.read_text()) != wanted:
        raise InputError(f"{out}: holds a demo of another size ({file}); name another folder with --out, or remove it")
    write_json(file, wanted)


def _demonstrations(out: Path, size: Size, embodiment: str) -> None:
    options = ["--embodiment", embodiment, "--suite", "reach", "--image-size", 64, "--episodes", size.episodes]
    _python("-m", "data_pipelines", "demo", *options, "--out", out / "data")


def _training(out: Path, size: Size) -> None:
    steps = [] if size.steps is None else ["--num-steps", size.steps]
    folders = ["--data.root", out / "data", "--data.cache", out / "data_cache", "--run-dir", out / "run"]
    _python("train.py", "--config", RECIPE, *folders, *steps)


def _python(*arguments: Any) -> None:
    """Runs a command in a process of its own, as a person would."""
    words = [str(word) for word in arguments]
    rich.console.Console(stderr=True).print(f"[bold]$ python {shlex.join(words)}", soft_wrap=True)
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    code = subprocess.run([sys.executable, *words], env=environment, preexec_fn=_end_with_parent).returncode
    if code:
        reason = "was stopped" if code == PREEMPTED else f"ended with {code}; mend it"
        raise InputError(f"`python {shlex.join(words)}` {reason}. Start the demo again: it goes on where it was")


def _end_with_parent() -> None:
    """In the child, on Linux: where the demo is killed its command must not run on beside the next start's."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG


def _pictures(out: Path) -> None:
    import jax

    jax.config.update("jax_platforms", "cpu")
    from vla_jax.evaluation import attention, curves
    from vla_jax.trained_policy import load_policy

    curves.plot_loss(out / "loss.png", out / "run" / "metrics.jsonl")
    dataset = f"tabletop_{EMBODIMENTS[0]}"
    attention.draw(
        load_policy(out / "run"), next((out / "data" / dataset).iterdir()), out / "attention.png", out / "data_cache"
    )


def _summary(out: Path, stages: Stages) -> dict[str, Any]:
    """The schema `demo_summary`; the time is that of all starts, but for what a kill took with it."""
    evaluations = {name: json.loads((out / name / "summary.json").read_text()) for name in EVALUATIONS}
    lines = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = sorted(line["samples_per_second"] for line in lines if "samples_per_second" in line)
    return evaluations | {
        "parity": json.loads((out / "pytorch" / "parity.json").read_text())["max_relative_error"],
        "minutes": round(sum(stages.seconds.values()) / 60, 2),
        "stage_seconds": {name: round(seconds, 1) for name, seconds in stages.seconds.items()},
        "images_per_second": round(2 * rates[len(rates) // 2], 1),
    }


def _print(summary: dict[str, Any], out: Path) -> None:
    table = rich.table.Table("reach the named block", "success", "95 % interval", "partial score", title="demo")
    for name in EVALUATIONS:
        result = summary[name]
        low, high = result["wilson_95"]
        share = f"{result['successes']} of {result['trials']}"
        table.add_row(name.replace("_", " "), share, f"{low:.0%} to {high:.0%}", f"{result['partial_score']:.2f}")
    console = rich.console.Console()
    console.print(table)
    parts = ", ".join(f"{name.replace('_', ' ')} {seconds:.0f}" for name, seconds in summary["stage_seconds"].items())
    console.print(f"Seconds: {parts}.")
    console.print(
        f"PyTorch against JAX: {summary['parity']:.1e} of the largest value. {summary['minutes']:.1f} minutes. Look at "
        f"{out}/loss.png, {out}/attention.png and the film strips in {out}/trained."
    )
