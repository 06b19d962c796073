"""No-ops, goals, tellings of a task, wordings and frame pairs, against their definitions."""

import json

import numpy as np
import pytest

from data_pipelines.transforms.goal import UniformGoal
from data_pipelines.transforms.no_op import NoOps, can_tell
from data_pipelines.transforms.pair import Pair
from data_pipelines.transforms.paraphrase import Paraphrase, read_wordings
from data_pipelines.transforms.task import OneTelling
from vla_jax.types import InputError

FIRST_STEP = np.array([0, 4, 4, 6])


def is_noop(action, previous):
    """As OpenVLA-OFT publishes it."""
    still = np.linalg.norm(action[:-1]) < 1e-4
    return still if previous is None else still and action[-1] == previous[-1]


def test_no_ops_are_those_of_openvla_oft():
    random = np.random.default_rng(0)
    delta = np.where(random.random((6, 1)) < 0.6, 0, 1) * random.normal(size=(6, 6))
    delta[0], delta[4] = 0, 2e-5
    gripper = np.array([0, 1, 1, 1, 0, 0], np.float32)
    found = NoOps()({"delta": delta, "target_gripper": gripper}, FIRST_STEP)
    actions = np.concatenate([delta, gripper[:, None]], axis=1)
    expected = [is_noop(actions[row], None if row in (0, 4) else actions[row - 1]) for row in range(6)]
    assert found.tolist() == expected
    assert 1 < sum(expected) < 6
    assert not found[1], "the gripper moves"


def test_no_ops_without_published_motion_are_commanded_poses_equal_to_the_measured():
    pose = np.tile(np.array([0.1, 0, 0, 0, 0, 0, 1], np.float32), (6, 1))
    target = pose.copy()
    target[1, 0] += 0.01
    target[2, 3:] = [0, 0, 0.01, 1]
    target[3] = np.nan
    columns = {"pose": pose, "target_pose": target}
    assert can_tell(columns)
    assert not can_tell({"joints": pose})
    assert NoOps()(columns, FIRST_STEP).tolist() == [True, False, False, False, True, True]
    assert NoOps(threshold=0.1)(columns, FIRST_STEP)[1]


def test_goals_lie_evenly_between_the_present_step_and_the_last():
    generator = np.random.default_rng(0)
    goals = np.array([UniformGoal()(3, 7, generator) for _ in range(5000)])
    counts = np.bincount(goals, minlength=9)
    assert counts[:3].sum() == counts[8] == 0
    assert np.abs(counts[3:8] - 1000).max() < 4 * (5000 * 0.2 * 0.8) ** 0.5
    assert {UniformGoal(furthest=1)(3, 7, generator) for _ in range(50)} == {3, 4}
    assert UniformGoal()(7, 7, generator) == 7


def test_one_telling_leaves_exactly_one_with_the_given_share():
    generator = np.random.default_rng(0)
    told = np.array([OneTelling(keep_goal=0.3)(True, True, generator) for _ in range(4000)])
    assert (told.sum(1) == 1).all()
    assert told[:, 1].mean() == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 4000) ** 0.5)


@pytest.mark.parametrize("given", [(True, False), (False, True), (False, False)])
def test_the_only_telling_of_a_task_stays(given):
    generator = np.random.default_rng(0)
    assert {OneTelling(0.5)(*given, generator) for _ in range(20)} == {given}


def test_wordings_take_an_instructions_place_evenly_and_unknown_ones_stay():
    generator = np.random.default_rng(0)
    paraphrase = Paraphrase({"lift": ["raise", "pick up"], "rest": []}, share=0.5)
    texts = [paraphrase("lift", generator) for _ in range(4000)]
    for text, share in {"lift": 0.5, "raise": 0.25, "pick up": 0.25}.items():
        assert texts.count(text) / 4000 == pytest.approx(share, abs=0.03)
    assert {paraphrase(text, generator) for text in ("rest", "open") for _ in range(20)} == {"rest", "open"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "found a list"),
        ('{"lift": "raise"}', "'lift': found 'raise'"),
        ('{"lift": [""]}', r"'lift': found \[''\]"),
        ("{", "no readable JSON"),
        ("\x80\x04pickle", "no readable JSON"),
    ],
)
def test_files_that_are_no_wordings_are_refused(tmp_path, content, message):
    (tmp_path / "w.json").write_bytes(content.encode("latin1"))
    with pytest.raises(InputError, match=message):
        read_wordings(tmp_path / "w.json")


def test_wordings_are_read_as_they_were_written(tmp_path):
    tree = {"öffne": ["mach auf", "bitte öffnen"]}
    (tmp_path / "w.json").write_text(json.dumps(tree))
    assert read_wordings(tmp_path / "w.json") == tree


def test_pairs_look_k_steps_ahead_and_mask_what_lies_past_the_end():
    rows, mask = np.array([[2, 3, 4], [5, 6, 6]]), np.array([[True, True, True], [True, True, False]])
    later, valid = Pair(2)(rows, mask, np.array([5, 6]))
    assert later.tolist() == [[4, 5, 5], [6, 6, 6]]
    assert valid.tolist() == [[True, True, False], [False, False, False]]
