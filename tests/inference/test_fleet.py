"""Robots in slots: what is kept across steps changes no action, and no robot sees another."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from tests.policies.batches import random_batch
from vla_jax import recipe
from vla_jax.inference.fleet import Fleet
from vla_jax.inference.history import History, gather
from vla_jax.inference.readers import StepReader, WindowReader, reader
from vla_jax.parameters import split
from vla_jax.policies.diffusion_policy import DiffusionPolicy
from vla_jax.policies.ef_vla import EfVla
from vla_jax.policies.octo import Octo
from vla_jax.policies.openvla import OpenVla

RECIPES = {
    "ef_vla": "configs/ef_vla_bridge.py:tiny",
    "octo": "configs/octo_oxe.py:tiny",
    "diffusion_policy": "configs/diffusion_policy_oxe.py:tiny",
}
NUM_STEPS = 6
"""More than a window of the tiny EF-VLA."""


class Served:
    """A tiny policy, and what some robots sense in one trial after another."""

    def __init__(self, name: str):
        config = recipe.load(RECIPES[name]).policy
        self.requirements = config.data_requirements()
        policy = config.build(nnx.Rngs(0))
        self.structure, self.parameters = split(policy)
        self.reader = reader(policy, self.structure.merge, self.parameters, self.requirements)
        self.act = jax.jit(lambda parameters, observation: self.structure.merge(parameters).act(observation))
        long = dataclasses.replace(self.requirements, window=NUM_STEPS)
        self.trials = [jax.tree.map(np.asarray, random_batch(long, seed=seed).observation) for seed in range(3)]

    def words(self, trial: int):
        return self.trials[trial].instruction_tokens[:1], self.trials[trial].instruction_mask[:1]

    def sensed(self, trial: int, step: int):
        """By a robot that has all cameras."""
        images = {slot: pictures[0, step] for slot, pictures in self.trials[trial].images.items()}
        return images, self.trials[trial].proprio[0, step]

    def uncached(self, trial: int) -> np.ndarray:
        """Chunks of each step, of whole windows and the instruction read anew each time."""
        history, chunks = History(self.requirements), []
        for step in range(NUM_STEPS):
            history.add(*self.sensed(trial, step))
            observation = gather([history], self.words(trial), self.requirements, 1)
            chunks.append(self.act(self.parameters, observation)[0])
        return np.stack(chunks)


@pytest.fixture(
    scope="module",
    params=["ef_vla", pytest.param("octo", marks=pytest.mark.all_presets)]
    + [pytest.param("diffusion_policy", marks=pytest.mark.all_presets)],
)
def served(request):
    return Served(request.param)


def drive(served: Served, fleet: Fleet, starts: dict[int, list[tuple[int, int]]]) -> dict[tuple[int, int], np.ndarray]:
    """Chunks by trial and step. Args: starts: by time, the robots that begin and their trials."""
    under_way, found = {}, {}
    for time in range(max(starts) + NUM_STEPS):
        for robot, trial in starts.get(time, []):
            fleet.start(robot, *served.words(trial))
            under_way[robot] = (trial, 0)
        for robot, (trial, step) in under_way.items():
            fleet.sense(robot, *served.sensed(trial, step))
        for robot, chunk in zip(under_way, fleet.act(list(under_way)), strict=True):
            trial, step = under_way[robot]
            found[trial, step] = chunk
        under_way = {r: (trial, step + 1) for r, (trial, step) in under_way.items() if step + 1 < NUM_STEPS}
    return found


def test_robots_at_different_times_act_as_each_would_alone_and_uncached(served):
    """The third trial begins in the first robot's slot when that is through, as the second is under way."""
    fleet = Fleet(served.reader, 3)
    found = drive(served, fleet, {0: [(0, 0)], 2: [(2, 1)], NUM_STEPS: [(0, 2)]})
    assert len(found) == 3 * NUM_STEPS
    expected = [served.uncached(trial) for trial in range(3)]
    bar = 1e-5 * np.abs(expected).max()
    for (trial, step), chunk in found.items():
        np.testing.assert_allclose(chunk, expected[trial][step], atol=bar)
    assert np.abs(expected[0] - expected[1]).max() > 100 * bar


def test_a_slot_that_is_not_started_anew_remembers_the_trial_before(served):
    fleet = Fleet(served.reader, 1)
    fleet.start(0, *served.words(0))
    for step in range(2):
        fleet.sense(0, *served.sensed(0, step))
        fleet.act([0])
    fleet.sense(0, *served.sensed(1, 0))
    expected = served.uncached(1)[0]
    assert np.abs(fleet.act([0])[0] - expected).max() > 1e-4 * np.abs(expected).max()


def test_what_is_kept_is_donated_and_of_one_shape(served):
    kept = served.reader.empty(2)
    observation = gather([], ((), ()), served.reader.requirements, 2)
    words = served.words(0)
    after, _ = served.reader.step(served.reader.start(kept, 1, *words), observation, np.array([False, True]))
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), each) for each in (served.reader.empty(2), after)]
    assert shapes[0] == shapes[1]
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(kept))


@pytest.mark.parametrize(
    ("policy", "kind", "reads_text"),
    [(EfVla, StepReader, True), (Octo, WindowReader, True), (DiffusionPolicy, WindowReader, True)]
    + [(OpenVla, WindowReader, False)],
)
def test_the_reader_is_the_best_that_a_policy_allows(policy, kind, reads_text):
    requirements = recipe.load(RECIPES["ef_vla"]).policy.data_requirements()
    assert type(reader(policy, lambda parameters: policy, {}, requirements)) is kind
    assert hasattr(policy, "read_instruction") is reads_text


def test_where_nobody_plans_whole_windows_are_not_read(served):
    calls = []

    class Counting:
        requirements = served.requirements
        reads_every_step = False

        def empty(self, num_robots):
            return None

        def start(self, kept, robot, ids, mask):
            return kept

        def step(self, kept, observation, fresh):
            calls.append(fresh.copy())
            return kept, np.zeros((2, 1, 1))

    fleet = Fleet(Counting(), 2)
    assert len(calls) == 1
    fleet.start(0, *served.words(0))
    fleet.sense(0, *served.sensed(0, 0))
    fleet.act([])
    assert len(calls) == 1
    fleet.act([0])
    assert len(calls) == 2
    assert calls[1].tolist() == [True, False]
