"""Receding horizon and temporal ensembling: which chunk says what about which step."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vla_jax.inference.execution import ExecutionConfig
from vla_jax.types import InputError


def _chunk(value: float, horizon: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Position x tells chunk and entry: value + entry / 100."""
    poses = np.zeros((horizon, 7), np.float32)
    poses[:, 0] = value + np.arange(horizon) / 100
    poses[:, 6] = 1.0
    return poses, np.ones(horizon, np.float32)


def test_receding_horizon_carries_out_a_chunk_before_it_asks_again():
    execution = ExecutionConfig(mode="open_loop", steps=3).build()
    assert execution.needs_plan
    execution.add(*_chunk(1.0))
    taken = []
    while not execution.needs_plan:
        taken.append(execution.next_target()[0][0])
    np.testing.assert_allclose(taken, [1.0, 1.01, 1.02], atol=1e-6)


def test_ensemble_averages_what_every_chunk_says_of_this_step_newest_heaviest():
    execution = ExecutionConfig(steps=3, newest_weight=0.5).build()
    for value in (1.0, 2.0, 3.0, 4.0):
        execution.add(*_chunk(value))
        pose, _ = execution.next_target()
    weights = np.exp(0.5 * np.arange(3))
    expected = weights @ [2.02, 3.01, 4.0] / weights.sum()
    assert pose[0] == pytest.approx(expected, abs=1e-6)
    reversed_weights = weights[::-1] @ [2.02, 3.01, 4.0] / weights.sum()
    assert abs(pose[0] - reversed_weights) > 0.1


def test_ensemble_forgets_chunks_that_have_run_out():
    execution = ExecutionConfig(steps=8).build()
    execution.add(*_chunk(1.0, horizon=1))
    execution.next_target()
    execution.add(*_chunk(5.0, horizon=2))
    assert execution.next_target()[0][0] == pytest.approx(5.0)


def test_both_plans_when_the_steps_are_carried_out_and_averages_what_is_left_of_older_chunks():
    execution = ExecutionConfig(mode="both", steps=2, newest_weight=0.5).build()
    taken = []
    for step in range(5):
        assert execution.needs_plan is (step % 2 == 0)
        if execution.needs_plan:
            execution.add(*_chunk(float(step), horizon=3))
        taken.append(execution.next_target()[0][0])
    older, newer = 1.0, np.exp(0.5)
    first, second = (older * 0.02 + newer * 2.0) / (older + newer), (older * 2.02 + newer * 4.0) / (older + newer)
    np.testing.assert_allclose(taken, [0.0, 0.01, first, 2.01, second], atol=1e-6)
    short = ExecutionConfig(mode="both", steps=8).build()
    short.add(*_chunk(1.0, horizon=1))
    short.next_target()
    assert short.needs_plan, "a chunk that has run out"


def test_rotations_average_on_the_sphere_and_grippers_close_or_open():
    execution = ExecutionConfig(steps=2, newest_weight=0.0).build()
    for angle, openness in ((10.0, 1.0), (30.0, 0.2)):
        poses, grippers = _chunk(0.0, horizon=2)
        poses[:, 3:] = Rotation.from_euler("z", angle, degrees=True).as_quat()
        execution.add(poses, grippers * openness)
        pose, gripper = execution.next_target()
    assert Rotation.from_quat(pose[3:]).magnitude() == pytest.approx(np.radians(20), abs=1e-5)
    assert gripper == 1.0


def test_no_steps_are_refused():
    with pytest.raises(InputError, match="steps=0"):
        ExecutionConfig(steps=0)
