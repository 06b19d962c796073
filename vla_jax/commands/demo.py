"""From nothing to a robot policy that succeeds: demonstrations, training, closed-loop evaluation, export.

    OUT/data                 demonstrations of both embodiments, RLDS
    OUT/run                  the training run
    OUT/{trained, untrained, images_blacked_out, instructions_shuffled}      closed-loop evaluations
    OUT/pytorch              the exported folder
    OUT/{loss.png, attention.png, summary.json}

Every stage is a command that a person could type, and is printed. What is finished is not done again, so the demo may
be stopped and started.
"""

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import rich.console
import rich.table

from vla_jax.types import InputError

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


FULL = Size(episodes=1200, steps=None, trials=60)
SHORT = Size(episodes=40, steps=20, trials=4)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--short", action="store_true", help="every stage, minutes long, learns nothing")


def run(options: argparse.Namespace) -> int:
    if not Path(RECIPE).is_file():
        raise InputError(f"{RECIPE} is not here: start the demo in the project's folder")
    started = time.monotonic()
    out, size = options.out, SHORT if options.short else FULL
    out.mkdir(parents=True, exist_ok=True)
    _demonstrations(out, size)
    _training(out, size)
    for name, arguments in EVALUATIONS.items():
        if not (out / name / "summary.json").is_file():
            trials = ["--env", "tabletop:reach", "--trials", size.trials, "--seed", 0, *arguments]
            _python("eval.py", "--checkpoint", out / "run", *trials, "--out", out / name)
    if not (out / "pytorch" / "parity.json").is_file():
        _python("-m", "vla_jax", "export", "--checkpoint", out / "run", "--to", "hf", "--out", out / "pytorch")
    _pictures(out)
    summary = _summary(out, (time.monotonic() - started) / 60)
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    _print(summary, out)
    return 0


def _demonstrations(out: Path, size: Size) -> None:
    for embodiment in EMBODIMENTS:
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
    code = subprocess.run([sys.executable, *words], env=os.environ | {"JAX_PLATFORMS": "cpu"}).returncode
    if code:
        raise InputError(
            f"`python {shlex.join(words)}` ended with {code}; mend it and start the demo again: it goes on"
        )


def _pictures(out: Path) -> None:
    from vla_jax.evaluation import attention, curves
    from vla_jax.trained_policy import load_policy

    curves.plot_loss(out / "loss.png", out / "run" / "metrics.jsonl")
    dataset = f"tabletop_{EMBODIMENTS[0]}"
    attention.draw(
        load_policy(out / "run"), next((out / "data" / dataset).iterdir()), out / "attention.png", out / "data_cache"
    )


def _summary(out: Path, minutes: float) -> dict[str, Any]:
    """The schema `demo_summary`; minutes are those of this start, not of earlier ones that were stopped."""
    evaluations = {name: json.loads((out / name / "summary.json").read_text()) for name in EVALUATIONS}
    lines = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = sorted(line["samples_per_second"] for line in lines if "samples_per_second" in line)
    return evaluations | {
        "parity": json.loads((out / "pytorch" / "parity.json").read_text())["max_relative_error"],
        "minutes": round(minutes, 2),
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
    console.print(
        f"PyTorch against JAX: {summary['parity']:.1e} of the largest value. {summary['minutes']:.1f} minutes. Look at "
        f"{out}/loss.png, {out}/attention.png and the film strips in {out}/trained."
    )
