"""Environments in worker processes, stepped side by side.

A worker holds several environments of one embodiment and answers for all of them at once. An error inside an
environment is an answer, too, and that environment is made anew: it never ends the others' trials.
"""

import dataclasses
import multiprocessing
import multiprocessing.connection
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from vla_jax.environments import graphics
from vla_jax.environments.base import Environment, Observed, open_environment


@dataclasses.dataclass(frozen=True)
class Reset:
    task: str
    initial_state: int


@dataclasses.dataclass(frozen=True)
class Act:
    """Carries out an absolute target of the gripper in the base frame."""

    pose: Float[np.ndarray, "7"]
    gripper: float


@dataclasses.dataclass(frozen=True)
class Answer:
    observed: Observed | None
    done: bool = False
    score: float = 0.0
    error: str | None = None
    """What the environment raised; then the trial is neither a success nor a failure."""


class EnvironmentPool:
    """`size` environments of one kind, numbered from 0, over `jobs` processes."""

    def __init__(self, name: str, embodiment: str, *, image_size: int, size: int, jobs: int):
        graphics.require_backend()
        context = multiprocessing.get_context("spawn")
        self.size, jobs = size, min(jobs, size)
        self._members = [list(range(worker, size, jobs)) for worker in range(jobs)]
        self._pipes: list[multiprocessing.connection.Connection] = []
        self._processes = []
        for members in self._members:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, name, embodiment, image_size, members), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> "EnvironmentPool":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def send(self, commands: Mapping[int, Reset | Act]) -> dict[int, Answer]:
        """Carries out one command each in some of the environments; returns when all have answered."""
        busy = []
        for pipe, members in zip(self._pipes, self._members, strict=True):
            if mine := {number: commands[number] for number in members if number in commands}:
                pipe.send(mine)
                busy.append(pipe)
        answers: dict[int, Answer] = {}
        for pipe in busy:
            try:
                answers |= pipe.recv()
            except EOFError as error:
                raise RuntimeError("a worker of the environments ended; was it killed for memory?") from error
        return answers

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=10)
            if process.is_alive():
                process.kill()
                process.join()


def _work(pipe: Any, name: str, embodiment: str, image_size: int, members: list[int]) -> None:
    environments: dict[int, Environment] = {}
    try:
        while True:
            try:
                commands = pipe.recv()
            except EOFError:
                return
            answers = {}
            for number, command in commands.items():
                try:
                    if number not in environments:
                        environments[number] = open_environment(name, embodiment=embodiment, image_size=image_size)
                    answers[number] = _carry_out(environments[number], command)
                except Exception as error:
                    last = traceback.extract_tb(error.__traceback__)[-1]
                    answers[number] = Answer(None, error=f"{type(error).__name__}: {error} ({last.name})")
                    if (broken := environments.pop(number, None)) is not None:
                        broken.close()
            pipe.send(answers)
    finally:
        for environment in environments.values():
            environment.close()


def _carry_out(environment: Environment, command: Reset | Act) -> Answer:
    if isinstance(command, Reset):
        return Answer(environment.reset(command.task, command.initial_state))
    observed, done = environment.step(environment.native_action(command.pose, command.gripper))
    return Answer(observed, done, environment.score())
