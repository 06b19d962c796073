"""Success of the scripted experts over numbered initial states, and how fast demonstrations are made.

    python -m benchmarks.tabletop_experts [--trials 60] [--episodes 100] [--jobs 2] [--json FILE]

Success is measured without pictures, with the noise that demonstrations have; every suite and embodiment must reach
95 %, or the script exits 1. Speed is that of the whole `demo` command at 2 x 224 pixels, start of the workers included.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from vla_jax.environments import graphics
from vla_jax.environments.base import EVALUATION_STATES, Environment, open_environment
from vla_jax.environments.tabletop import EMBODIMENTS, build_expert

BAR = 0.95
NOISE = 0.1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=60, help="a suite and embodiment")
    parser.add_argument("--episodes", type=int, default=100, help="for the speed; 0: not measured")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    graphics.choose_backend()
    results = []
    for embodiment in EMBODIMENTS:
        with open_environment("tabletop", embodiment=embodiment, image_size=None) as environment:
            results += [measure(environment, suite, options.trials) for suite in environment.spec.suites]
    print_table(results)
    speeds = []
    for embodiment in EMBODIMENTS if options.episodes else ():
        for suite in ("reach", "object"):
            speeds.append(speed(embodiment, suite, options.episodes, options.jobs))
            print(speeds[-1])
    if options.json:
        options.json.write_text(json.dumps({"experts": results, "speeds": speeds}, indent=1) + "\n")
    return int(any(result["success_rate"] < BAR for result in results))


def measure(environment: Environment, suite: str, trials: int) -> dict:
    tasks, limit = environment.spec.suites[suite], environment.spec.max_steps[suite]
    successes, steps, started = 0, 0, time.process_time()
    for number in range(trials):
        environment.reset(tasks[number % len(tasks)], EVALUATION_STATES + number)
        expert, generator = build_expert(environment), np.random.default_rng(number)
        for _ in range(limit):
            pose, gripper = expert.command()
            pose[:3] += generator.normal(size=3) * NOISE * expert.stride_metres
            environment.step(environment.native_action(pose, gripper))
            expert.observe()
            steps += 1
            if expert.finished:
                break
        successes += environment.success()
    return {
        "embodiment": environment.spec.embodiment,
        "suite": suite,
        "trials": trials,
        "success_rate": successes / trials,
        "mean_steps": steps / trials,
        "max_steps": limit,
        "cpu_ms_per_step": 1e3 * (time.process_time() - started) / steps,
    }


def speed(embodiment: str, suite: str, episodes: int, jobs: int) -> dict:
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "data_pipelines", "demo", "--embodiment", embodiment, "--suite", suite]
        command += ["--episodes", str(episodes), "--image-size", "224", "--jobs", str(jobs), "--out", folder]
        started = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        minutes = (time.monotonic() - started) / 60
    rate = episodes / minutes
    return {"embodiment": embodiment, "suite": suite, "episodes_per_minute": rate, "jobs": jobs, "load_before": load}


def print_table(results: list[dict]) -> None:
    table = Table("embodiment", "suite", "success", "steps", "limit", "CPU ms a step")
    for row in results:
        table.add_row(
            row["embodiment"],
            row["suite"],
            f"{row['success_rate']:.1%} of {row['trials']}",
            f"{row['mean_steps']:.1f}",
            str(row["max_steps"]),
            f"{row['cpu_ms_per_step']:.2f}",
        )
    Console(width=None if sys.stdout.isatty() else 100).print(table)


if __name__ == "__main__":
    sys.exit(main())
