"""The three papers' policies on equal terms: small twins from scratch, trained and driven in the tabletop.

    python -m benchmarks.learning [--out DIR] [--policies NAME ...] [--steps N] [--trials N] [--episodes N]

    OUT/data, OUT/cache             demonstrations, suite `reach`; the arm never shows what UNSEEN names
    OUT/NAME/run                    the training run of configs/tabletop_learning.py:NAME
    OUT/NAME/{trained, untrained}   closed-loop evaluations
    OUT/{learning.json, settings.json}

What is finished is not done again: stop it and start it again as you like. Every policy has the same data, seed, steps
and trials. Printed are the papers' tables: success with its 95 % interval, of combinations of robot and colour that the
demonstrations have and of those that they lack; the mean over tasks of a policy's rank there, ties sharing the better
one (1, 1, 3); milliseconds a call; parameters; minutes of training. Bar: each policy's lower bound lies above its
untrained self's upper bound. Exit code 1 where one does not.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vla_jax.evaluation.trials import wilson

RECIPE = "configs/tabletop_learning.py"
POLICIES = ("ef_vla", "lf_vla", "dfa_model1", "dfa_model3", "dfa_model5", "qwenvla_oft", "deepvision_vla")
UNSEEN = {"arm": ("reach_blue", "reach_purple")}
"""Tasks that an embodiment's demonstrations lack; the other one's have them."""
PREEMPTED = 75


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=POLICIES, metavar="NAME")
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--episodes", type=int, default=2_000, help="of each robot")
    options = parser.parse_args()
    _keep_settings(options)
    for embodiment in ("gantry", "arm"):
        without = ["--without-tasks", ",".join(UNSEEN[embodiment])] if embodiment in UNSEEN else []
        arguments = ["--embodiment", embodiment, "--image-size", 64, "--episodes", options.episodes, *without]
        _python("-m", "data_pipelines", "demo", *arguments, "--out", options.out / "data")
    for policy in options.policies:
        _train_and_drive(policy, options)
    rows = {policy: _row(options.out / policy) for policy in POLICIES if _is_finished(options.out / policy)}
    _add_ranks(rows)
    (options.out / "learning.json").write_text(json.dumps(rows, indent=1) + "\n")
    _print(rows)
    return 0 if all(row["trained"]["wilson_95"][0] > row["untrained"]["wilson_95"][1] for row in rows.values()) else 1


def _keep_settings(options: argparse.Namespace) -> None:
    """Results of different settings are never put side by side."""
    file, settings = options.out / "settings.json", {k: getattr(options, k) for k in ("steps", "trials", "episodes")}
    options.out.mkdir(parents=True, exist_ok=True)
    if not file.is_file():
        file.write_text(json.dumps(settings) + "\n")
    elif (held := json.loads(file.read_text())) != settings:
        sys.exit(f"{options.out}: holds results of {held}, asked for: {settings}; name another --out")


def _train_and_drive(policy: str, options: argparse.Namespace) -> None:
    folder = options.out / policy
    data = ["--data.root", options.out / "data", "--data.cache", options.out / "cache"]
    _python(
        "train.py", "--config", f"{RECIPE}:{policy}", *data, "--num-steps", options.steps, "--run-dir", folder / "run"
    )
    for name, more in (("trained", []), ("untrained", ["--untrained"])):
        if not (folder / name / "summary.json").is_file():
            arguments = ["--env", "tabletop:reach", "--trials", options.trials, "--seed", 0, *more]
            _python("eval.py", "--checkpoint", folder / "run", *arguments, "--out", folder / name)
    if not (folder / "plan.json").is_file():
        _python("-m", "vla_jax", "plan", "--config", f"{RECIPE}:{policy}", "--json", folder / "plan.json")


def _python(*arguments: Any) -> None:
    words = [str(word) for word in arguments]
    print("$ python", *words, file=sys.stderr, flush=True)
    code = subprocess.run([sys.executable, *words], env=os.environ | {"JAX_PLATFORMS": "cpu"}).returncode
    if code:
        sys.exit("stopped; start it again" if code == PREEMPTED else f"python {' '.join(words)} ended with {code}")


def _is_finished(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("trained/summary.json", "untrained/summary.json", "plan.json"))


def _row(folder: Path) -> dict[str, Any]:
    trials = [json.loads(line) for line in (folder / "trained" / "trials.jsonl").read_text().splitlines()]
    sound = [trial for trial in trials if trial["error"] is None]
    is_unseen = [trial["task"] in UNSEEN.get(trial["embodiment"], ()) for trial in sound]
    plan = json.loads((folder / "plan.json").read_text())
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "step_seconds" in line]
    evaluations = {name: json.loads((folder / name / "summary.json").read_text()) for name in ("trained", "untrained")}
    return {
        "trained": evaluations["trained"],
        "untrained": evaluations["untrained"],
        "seen": _rate([trial for trial, apart in zip(sound, is_unseen) if not apart]),
        "unseen": _rate([trial for trial, apart in zip(sound, is_unseen) if apart]),
        "tasks": {
            task: _rate([trial for trial in sound if trial["task"] == task])
            for task in sorted({trial["task"] for trial in sound})
        },
        "latency_ms": evaluations["trained"]["latency_ms"]["p50"],
        "parameters": plan["parameters"]["total"],
        "step_milliseconds": 1e3 * statistics.median(line["step_seconds"] for line in logged),
        "loss": logged[-1]["loss"],
    }


def _rate(trials: list[dict]) -> dict[str, Any]:
    successes = sum(trial["success"] for trial in trials)
    return {"successes": successes, "trials": len(trials), "wilson_95": list(wilson(successes, len(trials)))}


def _add_ranks(rows: dict[str, dict[str, Any]]) -> None:
    """`rank`: the mean over tasks of 1 + the number of policies that are better there."""
    for row in rows.values():
        ranks = [
            1 + sum(_share(other["tasks"][task]) > _share(own) for other in rows.values())
            for task, own in row["tasks"].items()
        ]
        row["rank"] = statistics.mean(ranks)


def _share(rate: dict[str, Any]) -> float:
    return rate["successes"] / max(rate["trials"], 1)


def _print(rows: dict[str, dict[str, Any]]) -> None:
    columns = ("policy", "seen", "unseen", "untrained", "rank", "ms a call", "parameters", "ms a step")
    table = Table(*columns, title="tabletop:reach, from scratch")
    for name, row in rows.items():
        rates = [_text(row[kind]) for kind in ("seen", "unseen", "untrained")]
        numbers = [f"{row['rank']:.1f}", f"{row['latency_ms']:.1f}", f"{row['parameters'] / 1e6:.2f} M"]
        table.add_row(name, *rates, *numbers, f"{row['step_milliseconds']:.0f}")
    Console(width=130).print(table)


def _text(rate: dict[str, Any]) -> str:
    low, high = rate["wilson_95"]
    return f"{rate['successes']} of {rate['trials']} ({low:.0%} to {high:.0%})"


if __name__ == "__main__":
    sys.exit(main())
