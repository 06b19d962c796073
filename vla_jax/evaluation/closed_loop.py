"""Closed-loop evaluation: the policy drives simulated robots, several at a time.

    OUT/trials.jsonl         schema `trials_line`
    OUT/summary.json         schema `evaluation_summary`, and the same by embodiment
    OUT/success_N.png failure_N.png      film strips

Axes: b robots.
"""

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rich.console
import rich.progress

from data_pipelines.discovery import find_action_space
from vla_jax.environments import graphics
from vla_jax.environments.base import EVALUATION_STATES, Observed, find_environment, open_environment
from vla_jax.environments.pool import Act, Answer, EnvironmentPool, Reset
from vla_jax.evaluation import film
from vla_jax.evaluation.trials import Trial, summarize
from vla_jax.inference.execution import Execution, ExecutionConfig
from vla_jax.inference.fleet import Fleet
from vla_jax.run_directory import new_folder
from vla_jax.trained_policy import TrainedPolicy
from vla_jax.types import InputError

Probe = Literal["none", "black_images", "shuffled_instructions"]
"""What is taken from the policy, to see what its success rests on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClosedLoopConfig:
    environment: str
    suite: str
    trials: int
    """Spread evenly over the embodiments that the policy was trained on, and over the suite's tasks."""
    seed: int = 0
    probe: Probe = "none"
    execution: ExecutionConfig = ExecutionConfig()
    batch_size: int = 16
    """Robots under way at a time."""
    jobs: int = 2

    def __post_init__(self):
        if self.trials < 1:
            raise InputError(f"--trials {self.trials}: at least 1 expected")
        if self.batch_size < 1:
            raise InputError(f"--batch-size {self.batch_size}: at least 1 expected")
        if self.jobs < 1:
            raise InputError(f"--jobs {self.jobs}: at least 1 expected")
        if not 0 <= self.seed < EVALUATION_STATES // 10_000:
            raise InputError(f"--seed {self.seed}: 0 to {EVALUATION_STATES // 10_000 - 1} expected")
        suites = find_environment(self.environment).SUITES
        if self.suite not in suites:
            raise InputError(f"--env {self.environment}:{self.suite}: its suites are {sorted(suites)}")

    def plan(self, embodiments: tuple[str, ...]) -> list[Trial]:
        """The same trials for every policy and probe: initial states are numbered from the seed."""
        tasks = find_environment(self.environment).SUITES[self.suite]
        return [
            Trial(
                embodiment=embodiments[number % len(embodiments)],
                task=tasks[number // len(embodiments) % len(tasks)],
                initial_state=self.seed * 10_000 + number,
                seed=self.seed,
            )
            for number in range(self.trials)
        ]


@dataclasses.dataclass
class Robot:
    """One environment of the pool, in the middle of a trial."""

    number: int
    trial: Trial
    execution: Execution
    observed: Observed


def evaluate(policy: TrainedPolicy, config: ClosedLoopConfig, out: Path, *, num_strips: int = 3) -> dict[str, Any]:
    """Writes `out`, whole or not at all, and returns the summary."""
    console = rich.console.Console(stderr=True)
    graphics.require_backend()
    with new_folder(out) as folder:
        embodiments = _embodiments(policy, config)
        trials = config.plan(embodiments)
        with rich.progress.Progress(console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task(f"trials of {config.suite}", total=len(trials))
            for embodiment in embodiments:
                mine = [trial for trial in trials if trial.embodiment == embodiment]
                for _ in run(policy, config, embodiment, mine):
                    progress.advance(task)
        summary = summarize(trials, f"{config.environment}:{config.suite}", config.seed)
        summary |= {"checkpoint": str(policy.path), "step": policy.stored.step, "probe": config.probe}
        summary["int8"] = policy.int8
        summary["embodiments"] = {
            name: summarize([t for t in trials if t.embodiment == name], summary["suite"], config.seed)
            for name in embodiments
        }
        with (folder / "trials.jsonl").open("w") as stream:
            stream.writelines(json.dumps(trial.line()) + "\n" for trial in trials)
        (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        film.write_strips(folder, trials, num_strips)
    return summary


def run(policy: TrainedPolicy, config: ClosedLoopConfig, embodiment: str, trials: list[Trial]) -> Iterator[Trial]:
    """Carries out trials of one embodiment; gives each when it is over."""
    with open_environment(config.environment, embodiment=embodiment, image_size=None) as environment:
        spec = environment.spec
    instructions = _instructions(config, embodiment, trials)
    driver = Driver(policy, spec.dataset, config)
    size = _image_size(policy)
    waiting = list(range(len(trials)))
    running: dict[int, Robot] = {}
    with EnvironmentPool(
        config.environment, embodiment, image_size=size, size=min(config.batch_size, len(trials)), jobs=config.jobs
    ) as pool:
        free = list(range(pool.size))
        while waiting or running:
            starts = {free.pop(): waiting.pop(0) for _ in range(min(len(free), len(waiting)))}
            resets = {number: Reset(trials[i].task, trials[i].initial_state) for number, i in starts.items()}
            for number, answer in pool.send(resets).items():
                trial = trials[starts[number]]
                if answer.observed is None:
                    trial.error = answer.error
                    free.append(number)
                    yield trial
                else:
                    trial.instruction = instructions.get(starts[number], answer.observed.instruction)
                    running[number] = driver.robot(number, trial, answer.observed)
            for number, answer in pool.send(driver.act(running)).items():
                trial = running[number].trial
                if _is_over(trial, answer, spec.max_steps[config.suite]):
                    del running[number]
                    free.append(number)
                    yield trial
                elif answer.observed is not None:
                    driver.observe(running[number], answer.observed)


def _is_over(trial: Trial, answer: Answer, max_steps: int) -> bool:
    trial.steps += 1
    trial.error, trial.success, trial.score = answer.error, answer.done, answer.score
    return answer.error is not None or answer.done or trial.steps >= max_steps


class Driver:
    """From what robots sense to their next targets, all of them in one call of the policy."""

    def __init__(self, policy: TrainedPolicy, dataset: str, config: ClosedLoopConfig):
        self._policy, self._dataset, self._config = policy, dataset, config
        self._space = find_action_space(policy.config.policy.action_space.form)
        self._fleet = Fleet(policy.reader, config.batch_size)

    def robot(self, number: int, trial: Trial, observed: Observed) -> Robot:
        """At the start of a trial. Args: number: its place, below `batch_size`."""
        self._fleet.start(number, *self._policy.tokenizer([trial.instruction]))
        robot = Robot(number, trial, self._config.execution.build(), observed)
        self.observe(robot, observed)
        return robot

    def observe(self, robot: Robot, observed: Observed) -> None:
        robot.observed = observed
        robot.trial.frames.append(observed.images[min(observed.images)])
        pose = {"pose": observed.pose[None], "gripper": np.array([observed.gripper], np.float32)}
        proprio = self._policy.normalizer("proprio", self._dataset)(self._space.proprio(pose)[0])
        images = observed.images
        if self._config.probe == "black_images":
            images = {slot: np.zeros_like(picture) for slot, picture in images.items()}
        self._fleet.sense(robot.number, images, proprio)

    def act(self, robots: dict[int, Robot]) -> dict[int, Act]:
        planning = [robot for robot in robots.values() if robot.execution.needs_plan]
        started = time.perf_counter()
        chunks = self._fleet.act([robot.number for robot in planning])
        if planning:
            chunks = self._policy.normalizer("action", self._dataset).inverse(chunks)
            milliseconds = 1e3 * (time.perf_counter() - started)
            for robot, chunk in zip(planning, chunks):
                robot.trial.latency_ms.append(milliseconds)
                robot.execution.add(*self._space.absolute(chunk, robot.observed.pose))
        return {number: Act(*robot.execution.next_target()) for number, robot in robots.items()}


def _embodiments(policy: TrainedPolicy, config: ClosedLoopConfig) -> tuple[str, ...]:
    known = {}
    for embodiment in find_environment(config.environment).EMBODIMENTS:
        with open_environment(config.environment, embodiment=embodiment, image_size=None) as environment:
            known[embodiment] = environment.spec.dataset
    chosen = tuple(embodiment for embodiment, dataset in known.items() if dataset in policy.statistics)
    if not chosen:
        raise InputError(
            f"{policy.path}: trained on {sorted(policy.statistics)}; {config.environment} has the embodiments of "
            f"{sorted(known.values())}, none of which it knows"
        )
    return chosen


def _image_size(policy: TrainedPolicy) -> int:
    sizes = {(camera.height, camera.width) for camera in policy.config.policy.data_requirements().cameras}
    if len(sizes) != 1 or len(set(next(iter(sizes)))) != 1:
        raise InputError(f"{policy.path}: cameras of sizes {sorted(sizes)}; closed loop renders one square size")
    return next(iter(sizes))[0]


def _instructions(config: ClosedLoopConfig, embodiment: str, trials: list[Trial]) -> dict[int, str]:
    """By trial, where the probe gives it another trial's instruction: the neighbour's of a seeded shuffle."""
    if config.probe != "shuffled_instructions":
        return {}
    with open_environment(config.environment, embodiment=embodiment, image_size=None) as environment:
        own = [environment.reset(trial.task, trial.initial_state).instruction for trial in trials]
    order = np.random.default_rng(config.seed).permutation(len(trials))
    return {int(i): own[j] for i, j in zip(order, np.roll(order, 1))}
