"""Closed loop with the rolling cache of step tokens: the same targets as from whole windows, with less reading."""

import dataclasses

import numpy as np
import pytest

from tests.convert.conftest import DATASETS, run_config, write_parameters
from vla_jax.environments.base import Observed
from vla_jax.evaluation.closed_loop import ClosedLoopConfig, Driver
from vla_jax.evaluation.trials import Trial
from vla_jax.inference.execution import ExecutionConfig
from vla_jax.inference.readers import Compiler, WindowReader
from vla_jax.trained_policy import load_policy

STEPS, BATCH = 6, 3
INSTRUCTIONS = ("put the spoon in the pot", "open the drawer")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_parameters(tmp_path_factory.mktemp("parameters") / "ef_vla", run_config())


def sensed(seed: int, instruction: str) -> Observed:
    generator = np.random.default_rng(seed)
    images = {slot: generator.integers(0, 256, (32, 32, 3), np.uint8) for slot in ("primary", "wrist")}
    pose = np.concatenate([generator.uniform(0, 0.4, 3), [0, 0, 0, 1]]).astype(np.float32)
    return Observed(images, pose, float(generator.random()), np.zeros(1, np.float32), instruction)


def drive(driver: Driver) -> np.ndarray:
    """Positions of the targets, [step, robot, 3]: the second robot starts two steps later."""
    robots, targets = {}, []
    for step in range(STEPS):
        for number, instruction in enumerate(INSTRUCTIONS):
            observed = sensed(10 * step + number, instruction)
            if number in robots:
                driver.observe(robots[number], observed)
            elif step >= 2 * number:
                trial = Trial(embodiment="arm", task="reach", initial_state=number, seed=0, instruction=instruction)
                robots[number] = driver.robot(number, trial, observed)
        acts = driver.act(robots)
        targets.append([acts[number].pose[:3] if number in acts else np.zeros(3) for number in range(2)])
    return np.array(targets)


@pytest.mark.parametrize("execution", [ExecutionConfig(steps=3), ExecutionConfig(mode="both", steps=2)])
def test_targets_are_those_of_whole_windows(folder, execution):
    config = ClosedLoopConfig(
        environment="tabletop", suite="reach", trials=2, execution=execution, batch_size=BATCH, jobs=1
    )
    policy = load_policy(folder)
    cached = drive(Driver(policy, DATASETS[0], config))
    assert policy.reader.reads_every_step
    whole = dataclasses.replace(policy)
    compiler = Compiler(policy.structure.merge, policy.stored.parameters)
    whole.__dict__["reader"] = WindowReader(compiler, policy.config.policy.data_requirements(), reads_text=False)
    expected = drive(Driver(whole, DATASETS[0], config))
    np.testing.assert_allclose(cached, expected, atol=1e-5 * np.abs(expected).max())
    assert np.abs(np.diff(expected[2:], axis=0)).max() > 1e-3
