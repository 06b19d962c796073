"""The scripted experts; `benchmarks/tabletop_experts.py` measures them over many more initial states."""

import dataclasses

import numpy as np
import pytest

from vla_jax.environments.tabletop import SUITES, build_expert
from vla_jax.environments.tabletop.suites import TASKS


def attempt(environment, task, initial_state, noise=0.1):
    """Whether the expert fulfils the task, and in how many steps."""
    environment.reset(task, initial_state)
    expert, generator = build_expert(environment), np.random.default_rng(initial_state)
    steps = 0
    while not expert.finished and steps < environment.spec.max_steps[TASKS[task].suite]:
        pose, gripper = expert.command()
        pose[:3] += generator.normal(size=3) * noise * expert.stride_metres
        environment.step(environment.native_action(pose, gripper))
        expert.observe()
        steps += 1
    return environment.success(), steps


@pytest.mark.parametrize("suite", SUITES)
def test_it_fulfils_every_task(environment, suite):
    failed = [(task, state) for task in SUITES[suite] for state in (0, 1) if not attempt(environment, task, state)[0]]
    assert not failed


def test_it_scores_by_halves_on_the_way_and_then_in_full(environment):
    environment.reset("object_red_white", 11)
    expert, scores = build_expert(environment), []
    while not expert.finished:
        environment.step(environment.native_action(*expert.command()))
        expert.observe()
        scores.append(environment.score())
    assert sorted(scores) == scores
    assert set(scores) == {0.0, 0.5, 1.0}


def test_the_named_block_counts_not_another(environment, monkeypatch):
    """An expert that reaches for another block fails, else language would not matter."""
    task = TASKS["reach_red"]
    wrong = dataclasses.replace(task, goals=(dataclasses.replace(task.goals[0], body="block_1"),))
    for state in range(5):
        environment.reset("reach_red", state)
        monkeypatch.setattr(environment, "_task", wrong)
        expert = build_expert(environment)
        while not expert.finished:
            environment.step(environment.native_action(*expert.command()))
            expert.observe()
        assert environment.success()
        monkeypatch.setattr(environment, "_task", task)
        assert not environment.success()


def test_reaching_takes_few_steps(environment):
    steps = [attempt(environment, "reach_blue", state)[1] for state in range(10)]
    assert 5 <= np.mean(steps) <= 20
