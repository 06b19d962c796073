"""The tabletop environment without pictures: scenes, commands, goals, scores."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from data_pipelines.action_spaces import relative_pose
from vla_jax.environments.base import Environment, open_environment
from vla_jax.environments.tabletop.goals import Situation
from vla_jax.environments.tabletop.robot import downward, yaw_of
from vla_jax.environments.tabletop.suites import SUITES, TASKS, UNSEEN
from vla_jax.types import InputError


def positions(environment) -> np.ndarray:
    return np.stack(list(environment.situation().bodies.values()))


def follow(environment, pose, gripper=1.0, steps=1):
    for _ in range(steps):
        seen, _ = environment.step(environment.native_action(pose, gripper))
    return seen


def test_it_is_an_environment(environment):
    assert isinstance(environment, Environment)
    seen = environment.reset("reach_red", 0)
    assert seen.images == {}
    assert seen.state.shape == (len(environment.spec.state_dimensions),)
    assert seen.pose.shape == (7,)
    action = environment.native_action(seen.pose, 1.0)
    assert (action.shape, action.dtype) == ((len(environment.spec.action_dimensions),), np.float32)


def test_embodiments_differ_in_actions_rates_and_state(environments):
    gantry, arm = (environments[name].spec for name in ("gantry", "arm"))
    for field in ("action_dimensions", "state_dimensions", "rate_hertz", "dataset"):
        assert getattr(gantry, field) != getattr(arm, field), field


def test_an_initial_state_is_the_same_scene_every_time(environment):
    first = environment.reset("object_red_white", 7)
    scene = positions(environment)
    environment.reset("reach_blue", 3)
    follow(environment, first.pose, steps=3)
    again = environment.reset("object_red_white", 7)
    np.testing.assert_array_equal(positions(environment), scene)
    np.testing.assert_array_equal(again.state, first.state)
    assert again.instruction == first.instruction
    environment.reset("object_red_white", 8)
    assert not np.allclose(positions(environment), scene)


def test_a_trial_is_deterministic(environment):
    ends = []
    for _ in range(2):
        seen = environment.reset("goal_lift_red", 4)
        target = np.array(seen.pose)
        target[:3] += [0.05, -0.04, -0.1]
        ends.append(follow(environment, target, 0.0, steps=5).state)
        environment.reset("long_stack_on_red", 1)
    np.testing.assert_array_equal(*ends)


def test_instructions_have_several_phrasings_and_name_what_the_task_means():
    for task in TASKS.values():
        assert len(set(task.instructions)) >= 3
    heard = {SUITES["reach"].tasks[0].scene(state)[1] for state in range(40)}
    assert heard == set(TASKS["reach_red"].instructions)
    assert all("red" in phrase for phrase in heard)


def test_held_out_combinations_occur_nowhere_else():
    def asks_for(task, block, plate):
        return any(f"{block} block" in text and f"{plate} plate" in text for text in task.instructions)

    for block, plate in UNSEEN:
        assert [task.suite for task in TASKS.values() if asks_for(task, block, plate)] == ["unseen"]
    seen = [task.name.split("_")[1:] for task in SUITES["object"].tasks]
    for block, plate in UNSEEN:
        assert any(name[0] == block for name in seen)
        assert any(name[1] == plate for name in seen)


def test_the_relation_that_is_said_holds():
    for state in range(20):
        items = {item.body: item for item in TASKS["spatial_left"].scene(state)[0].items}
        assert items["block_0"].y < items["block_1"].y - 0.1
        near = {item.body: np.array([item.x, item.y]) for item in TASKS["spatial_near_can"].scene(state)[0].items}
        assert np.linalg.norm(near["block_0"] - near["can"]) < np.linalg.norm(near["block_1"] - near["can"])


def test_the_named_colour_is_in_the_scene_once(environment):
    for name in SUITES["reach"].tasks:
        scene, _ = name.scene(5)
        colours = [item.colour for item in scene.items]
        assert len(set(colours)) == 3
        assert colours[0] == name.name.split("_")[1]


def test_absolute_poses_are_reached(environment):
    seen = environment.reset("reach_red", 2)
    middle = seen.pose.astype(np.float64)
    middle[:3] = [0.03, -0.05, 0.15] - environment.robot.BASE
    middle = downward(middle[:3], 0.3)
    seen = follow(environment, middle, 0.0, steps=8)
    np.testing.assert_allclose(seen.pose[:3], middle[:3], atol=2e-3)
    assert abs(yaw_of(seen.pose) - 0.3) < 0.01
    assert seen.gripper < 0.05
    assert follow(environment, middle, 1.0, steps=5).gripper > 0.95


def test_a_tilt_is_carried_out_by_the_arm_and_left_out_by_the_gantry(environments):
    for name, tilted in (("arm", True), ("gantry", False)):
        environment = environments[name]
        seen = environment.reset("reach_red", 2)
        upright = Rotation.from_quat(downward(np.zeros(3), 0.0)[3:])
        wanted = Rotation.from_euler("y", 0.25) * upright
        target = np.array([*([0.0, 0.0, 0.2] - environment.robot.BASE), *wanted.as_quat()])
        seen = follow(environment, target, steps=10)
        off = (Rotation.from_quat(seen.pose[3:]) * (wanted if tilted else upright).inv()).magnitude()
        assert off < 0.01, name
        np.testing.assert_allclose(seen.pose[:3], target[:3], atol=3e-3)


def test_relative_chunks_come_back_as_the_same_native_action(environment):
    """What a policy learns from a command, undone by its action space, is that command again."""
    seen = environment.reset("reach_green", 9)
    target = downward(seen.pose[:3] + [0.02, -0.015, -0.01], yaw_of(seen.pose) + 0.05)
    native = environment.native_action(target, 0.0)
    steps = {"pose": seen.pose[None], "gripper": np.ones(1, np.float32)}
    future = {"target_pose": target[None, None].astype(np.float32), "target_gripper": np.zeros((1, 1), np.float32)}
    poses, openness = relative_pose.absolute(relative_pose.targets(steps, future)[0], seen.pose)
    again = environment.native_action(poses[0], openness[0])
    np.testing.assert_allclose(again, native, atol=2e-6)


def test_commands_are_limited_to_what_one_step_allows(environment):
    seen = environment.reset("reach_red", 1)
    before = seen.pose[:3].astype(np.float64)
    far = downward(before + [3.0, 0.0, 0.0], 0.0)
    action = environment.native_action(far, 7.0)
    assert np.linalg.norm(action[:3] - before) < 0.081
    assert action[-1] == 1.0
    below = downward([*before[:2], -1.0], 0.0)
    for _ in range(10):
        environment.step(environment.native_action(below, 1.0))
    assert environment.situation().tool[2] > 0.01


@pytest.mark.parametrize("bad", [np.full(7, np.nan), np.zeros(7)])
def test_a_pose_without_meaning_is_refused(environment, bad):
    environment.reset("reach_red", 1)
    with pytest.raises(ValueError, match="not finite or has no direction"):
        environment.native_action(bad, 1.0)


def test_standing_still_scores_nothing(environment):
    for suite in SUITES.values():
        seen = environment.reset(suite.tasks[0].name, 3)
        follow(environment, seen.pose, steps=3)
        assert not environment.success()
        assert environment.score() == 0.0 or suite is SUITES["reach"]


def test_a_held_block_is_half_the_score_and_half_stays():
    task = TASKS["object_red_white"]
    (goal,) = task.goals
    up = np.array([0.1, 0.1, 0.1])
    now = Situation(up, 0.5, {"block_0": up, "plate_0": np.array([0.0, 0.0, 0.002])})
    assert goal.begun(now)
    assert not goal.reached(now)
    empty = Situation(up, 0.5, {"block_0": np.array([0.1, 0.1, 0.02]), "plate_0": np.zeros(3)})
    assert not goal.begun(empty)


def test_a_block_on_the_plate_counts_only_when_let_go():
    (goal,) = TASKS["object_red_white"].goals
    bodies = {"block_0": np.array([0.01, 0.0, 0.024]), "plate_0": np.array([0.0, 0.0, 0.002])}
    assert goal.reached(Situation(np.array([0.01, 0.0, 0.09]), 1.0, bodies))
    assert not goal.reached(Situation(np.array([0.01, 0.0, 0.025]), 1.0, bodies))
    assert not goal.reached(Situation(np.array([0.01, 0.0, 0.09]), 0.5, bodies))
    bodies["block_0"] = np.array([0.06, 0.0, 0.024])
    assert not goal.reached(Situation(np.array([0.01, 0.0, 0.09]), 1.0, bodies))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "kitchen", "embodiment": "arm"}, "no environment 'kitchen'.*tabletop"),
        ({"name": "tabletop", "embodiment": "snake"}, "no embodiment 'snake'.*arm"),
    ],
)
def test_unknown_names_are_refused_with_those_that_are_there(arguments, message):
    with pytest.raises(InputError, match=message):
        open_environment(**arguments, image_size=None)
    with pytest.raises(InputError, match="8 to 640"):
        open_environment("tabletop", embodiment="arm", image_size=4)


def test_unknown_tasks_and_negative_states_are_refused(environment):
    with pytest.raises(InputError, match=r"no task 'reach_pink'.*reach_red"):
        environment.reset("reach_pink", 0)
    with pytest.raises(InputError, match="initial state -1"):
        environment.reset("reach_red", -1)


def test_training_never_imports_mujoco():
    modules = "sys, train, eval, data_pipelines.__main__, vla_jax.environments.tabletop"
    code = f"import {modules}; print('mujoco' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
