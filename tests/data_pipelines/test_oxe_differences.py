"""What Octo's and OpenVLA's published code makes of a dataset beside what its true tree says, on small trajectories.

Axes: time. Every trajectory has three steps; numbers that do not matter are zero.
"""

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from data_pipelines.datasets import (
    asu_table_top_converted_externally_to_rlds as asu,
)
from data_pipelines.datasets import (
    berkeley_fanuc_manipulation as fanuc,
)
from data_pipelines.datasets import (
    berkeley_gnm_recon as gnm,
)
from data_pipelines.datasets import (
    berkeley_mvp_converted_externally_to_rlds as mvp,
)
from data_pipelines.datasets import (
    berkeley_rpt_converted_externally_to_rlds as rpt,
)
from data_pipelines.datasets import (
    cmu_play_fusion as play_fusion,
)
from data_pipelines.datasets import (
    cmu_playing_with_food as food,
)
from data_pipelines.datasets import (
    cmu_stretch as stretch,
)
from data_pipelines.datasets import (
    dlr_edan_shared_control_converted_externally_to_rlds as edan,
)
from data_pipelines.datasets import (
    dlr_sara_pour_converted_externally_to_rlds as sara,
)
from data_pipelines.datasets import (
    droid,
    robo_net,
)
from data_pipelines.datasets import (
    iamlab_cmu_pickup_insert_converted_externally_to_rlds as iamlab,
)
from data_pipelines.datasets import (
    imperialcollege_sawyer_wrist_cam as imperial,
)
from data_pipelines.datasets import (
    kaist_nonprehensile_converted_externally_to_rlds as kaist,
)
from data_pipelines.datasets import (
    stanford_mask_vit_converted_externally_to_rlds as mask_vit,
)
from data_pipelines.datasets import (
    stanford_robocook_converted_externally_to_rlds as robocook,
)
from data_pipelines.datasets import (
    tokyo_u_lsmo_converted_externally_to_rlds as lsmo,
)
from data_pipelines.datasets import (
    uiuc_d3field as d3field,
)
from data_pipelines.datasets import (
    utaustin_mutex as mutex,
)
from data_pipelines.datasets import (
    utokyo_pr2_opening_fridge_converted_externally_to_rlds as pr2,
)
from data_pipelines.datasets import (
    utokyo_xarm_bimanual_converted_externally_to_rlds as bimanual,
)
from data_pipelines.datasets import (
    utokyo_xarm_pick_and_place_converted_externally_to_rlds as xarm,
)

LENGTH = 3
X_FIRST, REAL_FIRST = [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]
"""A tool that points down: a half turn about x, real part last or first."""


def rows(*values) -> np.ndarray:
    """The same row at every step."""
    return np.tile(np.float32(values), (LENGTH, 1))


def both(dataset, **raw) -> tuple[dict, dict]:
    """Keys: `action`, and those below `observation/` by their last part."""
    keys = {key.rsplit("/", 1)[-1]: key for key in dataset.SPEC.numbers}
    numbers = {keys[key]: column for key, column in raw.items()}
    assert numbers.keys() == set(dataset.SPEC.numbers)
    return dataset.standardize(numbers), dataset.upstream(numbers)


def close(column: np.ndarray, expected, atol: float = 1e-5) -> None:
    expected = np.asarray(expected, np.float32)
    np.testing.assert_allclose(column, np.broadcast_to(expected, column.shape), atol=atol)


def same_turn(pose: np.ndarray, turn: Rotation) -> bool:
    return bool((Rotation.from_quat(pose[:, 3:]) * turn.inv()).magnitude().max() < 1e-4)


def test_pr2_moves_millimetres_and_its_command_one_closes():
    action, state = rows(10, 0, 0, 0, 0, 0, 1, 0), rows(500, 0, 800, 0, 0, 0, 86.66)
    ours, theirs = both(pr2, action=action, state=state)
    close(ours["delta"], [0.01, 0, 0, 0, 0, 0])
    close(theirs["delta"], [10, 0, 0, 0, 0, 0])
    close(ours["pose"][:, :3], [0.5, 0, 0.8])
    close(theirs["pose"][:, :3], [500, 0, 800])
    assert (ours["gripper"][0], theirs["gripper"][0]) == (1, np.float32(86.66))
    assert (ours["target_gripper"][0], theirs["target_gripper"][0]) == (0, 1)


@pytest.mark.parametrize("pressed", [0, 1])
def test_xarm_that_holds_still_moves_by_its_whole_pose_upstream(pressed):
    place = (0.4, 0.1, 0.3, math.pi, 0, 0)
    ours, theirs = both(xarm, action=rows(*place, pressed), end_effector_pose=rows(*place), joint_state=rows(*[0] * 14))
    close(ours["delta"], 0)
    close(theirs["delta"], place)
    assert (ours["target_gripper"][0], theirs["target_gripper"][0]) == (1 - pressed, pressed)


def test_bimanual_left_arm_is_dropped_upstream_and_poses_are_motions():
    left, right = (0.4, 0.1, 0.3, math.pi, 0, 0), (0.4, 0.5, 0.3, math.pi, 0, 0)
    ours, theirs = both(bimanual, action=rows(*left, 0, *right, 1), pose_l=rows(*left), pose_r=rows(*right))
    close(ours["left_pose"], ours["left_target_pose"])
    close(ours["pose"][:, :3], right[:3])
    close(ours["left_pose"][:, :3], left[:3])
    close(theirs["delta"], right)
    assert (ours["left_target_gripper"][0], ours["target_gripper"][0], theirs["target_gripper"][0]) == (1, 0, 1)
    assert not any(key.startswith("left_") for key in theirs)


def test_robo_nets_yaw_stands_in_the_slot_of_roll_upstream():
    ours, theirs = both(robo_net, action=rows(0.01, 0, 0, 0.3, 1), state=rows(0.5, 0.5, 0.5, 0.7, 1))
    close(ours["delta"], [0.01, 0, 0, 0, 0, 0.3])
    close(theirs["delta"], [0.01, 0, 0, 0.3, 0, 0])
    assert same_turn(theirs["pose"], Rotation.from_rotvec([0.7, 0, 0]))
    assert "pose" not in ours, "fractions of an unknown workspace are no metres"
    assert (ours["target_gripper"][0], theirs["target_gripper"][0]) == (0, 1)


def test_mask_vits_fractions_become_metres_and_its_angle_a_turn_about_the_vertical():
    low, high = rows(0.4, -0.2, 0.1, 1.5, -1), rows(0.8, 0.2, 0.3, 4.6, 1)
    action, state = rows(0, 0, 0, 0.3, 1), rows(0.5, 0.5, 0.5, 2.0, 1)
    ours, theirs = both(
        mask_vit, action=action, end_effector_pose=state, low_bound=low, high_bound=high, state=rows(*[0] * 15)
    )
    close(ours["pose"][:, :3], [0.6, 0, 0.2])
    close(theirs["pose"][:, :3], 0.5)
    down = Rotation.from_quat(ours["pose"][:, 3:]).apply([0, 0, 1])
    close(down, [0, 0, -1])
    close(ours["delta"], [0, 0, 0, 0, 0, -0.3])
    close(theirs["delta"], [0, 0, 0, 0.3, 0, 0])
    assert (ours["gripper"][0], ours["target_gripper"][0], theirs["target_gripper"][0]) == (1, 0, 1)


def test_mask_vits_motion_leads_from_one_angle_to_the_next():
    state = rows(0.5, 0.5, 0.5, 2.0, 1)
    state[1:, 3] += 0.3
    bounds = {"low_bound": rows(*[0] * 5), "high_bound": rows(*[1] * 5), "state": rows(*[0] * 15)}
    ours, _ = both(mask_vit, action=rows(0, 0, 0, 0.3, 1), end_effector_pose=state, **bounds)
    moved = Rotation.from_euler("xyz", ours["delta"][0, 3:]) * Rotation.from_quat(ours["pose"][0, 3:])
    assert same_turn(ours["pose"][1:2], moved)


@pytest.mark.parametrize("dataset", [mvp, rpt])
def test_joints_are_absolute_and_the_gripper_one_number_a_step_is_open_at_false(dataset):
    numbers = {
        "action": rows(*[0.1] * 7, 1),
        "joint_pos": rows(*[1.0] * 7),
        "gripper": np.array([False, False, True]),
        "pose": rows(0.4, 0, 0.2, *X_FIRST),
    }
    given = {key: column for key, column in numbers.items() if key != "pose" or dataset is mvp}
    ours, theirs = both(dataset, **given)
    assert ours["gripper"].tolist() == [1, 1, 0]
    assert theirs["gripper"].tolist() == [0, 0, 1]
    close(ours["target_joints"], 1.1)
    close(theirs["target_joints"], 0.1)
    assert (ours["target_gripper"][0], theirs["target_gripper"][0]) == (0, 1)
    assert ours["target_valid"].tolist() == [True, True, False]


def test_kaists_residual_is_a_rotation_vector_from_the_left():
    vector = np.array([0.9, -0.4, 1.2])
    state = rows(*[0] * 14, 0.5, 0, 0.1, *X_FIRST)
    state[:, :14:2] = np.arange(7)
    ours, theirs = both(kaist, action=rows(0.01, 0, 0, *vector, *[0] * 14), state=state)
    assert same_turn(ours["target_pose"], Rotation.from_rotvec(vector) * Rotation.from_quat(X_FIRST))
    close(ours["target_pose"][:, :3], [0.51, 0, 0.1])
    close(ours["joints"], np.arange(7))
    assert not np.allclose(ours["delta"], theirs["delta"], atol=0.05)
    assert "target_gripper" not in ours
    close(theirs["target_gripper"], 0)


def test_lsmos_angles_are_about_z_y_x_and_zero_is_open():
    """The tool points down, so that a growing angle about its own z turns it against yaw."""
    action, state = rows(0, 0, 0, 0.2, 0, 0, 0), rows(0, -0.2, 0.1, 0.5, 0, math.pi, *[0] * 6, 0)
    ours, theirs = both(lsmo, action=action, state=state)
    assert same_turn(ours["pose"], Rotation.from_euler("zyx", [0.5, 0, math.pi]))
    assert not same_turn(theirs["pose"], Rotation.from_euler("zyx", [0.5, 0, math.pi]))
    close(ours["delta"], [0, 0, 0, 0, 0, -0.2])
    close(theirs["delta"], [0, 0, 0, 0.2, 0, 0])
    assert (ours["target_gripper"][0], theirs["target_gripper"][0]) == (1, 0)


def test_sara_turns_on_the_spot_while_its_published_translation_is_large():
    """As the authors' conversion writes it: the next pose's matrix times the inverse of this one's."""
    position, turn = np.array([0.7, 0.2, 0.0]), Rotation.from_euler("zxy", [0.4, 0, 0])
    state = rows(*position, 0, 0, 0)
    state[1:, 3] = 0.4
    action = rows(*(position - turn.apply(position)), 0.4, 0, 0, 1)
    ours, theirs = both(sara, action=action, state=state)
    close(ours["delta"][0], [0, 0, 0, 0, 0, 0.4])
    close(theirs["delta"][0, 3:], [0.4, 0, 0])
    assert np.linalg.norm(theirs["delta"][0, :3]) > 0.25
    assert (ours["target_gripper"][0], theirs["target_gripper"][0]) == (0, 1)


def test_edans_angles_are_zxy_and_its_measured_gripper_is_closed_at_one():
    ours, theirs = both(edan, action=rows(0, 0, 0, 0.4, 0.1, 0, 1), state=rows(0, 0, 0, 0.4, 0, 0, 1))
    assert same_turn(ours["pose"], Rotation.from_rotvec([0, 0, 0.4]))
    assert same_turn(theirs["pose"], Rotation.from_rotvec([0.4, 0, 0]))
    turn = Rotation.from_euler("zxy", [0.4, 0.1, 0])
    assert (Rotation.from_euler("xyz", ours["delta"][0, 3:]) * turn.inv()).magnitude() < 1e-5
    assert (ours["gripper"][0], theirs["gripper"][0]) == (0, 1)
    assert ours["target_gripper"][0] == theirs["target_gripper"][0] == 0


def test_asus_action_is_the_next_pose():
    place = (0.4, 0.1, 0.3, 0, math.pi / 3, 0)
    ours, theirs = both(asu, action=rows(*place, 0.2), EE=rows(*place), state=rows(*[0] * 6, 0.2))
    close(ours["delta"], 0)
    close(theirs["delta"], place)
    assert "target_gripper" not in ours
    close(theirs["target_gripper"], 0.2)


def test_robocooks_gripper_is_closed_throughout_upstream():
    """It closes from 8 to 4 centimetres and stays."""
    state, action = rows(0.4, 0, 0.2, 0, 0, 0, 0.08), rows(*[0] * 7)
    state[1:, 6], action[0, 6] = 0.04, -0.04
    ours, theirs = both(robocook, action=action, state=state)
    close(ours["gripper"], [1, 0.5, 0.5])
    close(ours["target_gripper"], [0.5, 0.5, 0.5])
    close(theirs["target_gripper"], [-0.04, 0, 0])
    close(theirs["gripper"], [0.08, 0.04, 0.04])


def test_imperials_first_angle_is_yaw_and_its_state_measures_nothing():
    ours, theirs = both(imperial, action=rows(0, 0, 0, 0.2, 0, 0, 1, 0), state=rows(1))
    close(ours["delta"], [0, 0, 0, 0, 0, 0.2])
    close(theirs["delta"], [0, 0, 0, 0.2, 0, 0])
    assert (ours["target_gripper"][0], theirs["target_gripper"][0]) == (0, 1)
    assert "gripper" in theirs.keys() - ours.keys()


def test_iamlabs_arm_that_holds_still_moves_by_its_whole_pose_upstream():
    ours, theirs = both(iamlab, action=rows(0.5, 0, 0.2, *REAL_FIRST, 1), state=rows(*[0] * 7, 1, *[0] * 12))
    assert same_turn(ours["target_pose"], Rotation.from_quat(X_FIRST))
    close(ours["delta"], 0)
    close(theirs["delta"][:, :3], [0.5, 0, 0.2])
    misread = Rotation.from_euler("xyz", theirs["delta"][0, 3:])
    assert (misread * Rotation.from_quat(REAL_FIRST).inv()).magnitude() < 1e-5
    assert "pose" in ours.keys() - theirs.keys()


def test_d3fields_action_is_over_before_the_step_begins():
    matrix = np.tile(np.eye(4, dtype=np.float32), (LENGTH, 1, 1))
    matrix[:, 0, 3] = [0.0, 0.1, 0.3]
    action = np.zeros((LENGTH, 3), np.float32)
    action[:, 0] = [0, 0.01, 0.02]
    ours, theirs = both(d3field, action=action, state=matrix)
    close(ours["delta"][:, 0], [0.1, 0.2, 0])
    close(theirs["delta"][:, 0], [0, 0.01, 0.02])
    assert "target_gripper" in theirs.keys() - ours.keys()


def test_mutex_measures_metres_between_its_fingers():
    matrix = np.eye(4)
    matrix[:3, 3] = 0.4, 0.1, 0.2
    state = rows(*[0] * 7, 0.04, *matrix.T.reshape(-1))
    ours, theirs = both(mutex, action=rows(*[0] * 6, 1), state=state)
    close(ours["pose"][:, :3], [0.4, 0.1, 0.2])
    assert (ours["gripper"][0], theirs["gripper"][0]) == (0.5, np.float32(0.04))
    assert ours["target_gripper"][0] == theirs["target_gripper"][0] == 0


def test_fanucs_command_is_its_own_state_upstream():
    """It closes at the second step."""
    state = rows(*[0] * 13)
    state[1:, 6] = 1
    ours, theirs = both(fanuc, action=rows(*[0] * 6), state=state, end_effector_state=rows(0.5, 0, 0.2, *X_FIRST))
    assert ours["target_gripper"].tolist() == [0, 0, 0]
    assert theirs["target_gripper"].tolist() == [1, 0, 0]
    assert ours["gripper"].tolist() == [1, 0, 0]
    assert theirs["gripper"].tolist() == [0, 1, 1]


def test_foods_force_is_no_pose():
    ours, theirs = both(food, action=rows(0.5, 0, 0.2, *X_FIRST, 1), state=rows(0, 0, 9.8, 0, 0, 0))
    close(ours["delta"], 0)
    close(theirs["delta"][:, :3], [0.5, 0, 0.2])
    close(theirs["pose"][:, :3], [0, 0, 9.8])
    assert "pose" not in ours


def test_play_fusions_gripper_is_not_the_end_of_the_episode():
    """An open gripper, a quarter turn about z, the end at the last step."""
    quarter = Rotation.from_rotvec([0, 0, math.pi / 2]).as_quat()
    action = rows(0.01, 0, 0, *quarter, 1, 0)
    action[-1, 8] = 1
    ours, theirs = both(play_fusion, action=action, state=rows(*[0] * 7, 0.085))
    assert ours["target_gripper"].tolist() == [1, 1, 1]
    assert theirs["target_gripper"].tolist() == [0, 0, 1]
    close(ours["delta"], [0.01, 0, 0, 0, 0, math.pi / 2])
    close(theirs["delta"], [0.01, 0, 0, *quarter[2:], 1])
    assert (ours["gripper"][0], theirs["gripper"][0]) == (1, np.float32(0.085))


def test_stretchs_gripper_position_is_no_openness():
    ours, theirs = both(stretch, action=rows(0.01, 0, 0, 0, 0, 0, 1, 0), state=rows(0.3, 0, 0.8, -40))
    close(theirs["gripper"], -40)
    assert "gripper" not in ours
    np.testing.assert_array_equal(ours["pose"], theirs["pose"])


def test_gnms_base_is_no_gripper_and_its_turn_takes_the_short_way():
    """It turns left by 0.2 across the wrap, published as nearly a turn to the right, and drives one ahead."""
    state = np.array([[0, 0, math.pi - 0.1], [-1, 0, 0.1 - math.pi], [-1, 0, 0.1 - math.pi]])
    action = np.array([[math.cos(0.1), math.sin(0.1), 0.2 - 2 * math.pi], [0, 0, 0], [0, 0, 0]])
    ours, theirs = both(gnm, action_angle=action, state=state)
    close(ours["base_delta"][:, :2], action[:, :2])
    close(ours["base_delta"][:, 2], [0.2, 0, 0])
    close(theirs["delta"][:, :2], action[:, :2])
    close(theirs["delta"][:, 2:], 0)
    assert "base_delta" not in theirs
    close(theirs["target_gripper"], 0)


def test_droids_velocities_are_fractions_of_what_a_step_may_move():
    place = (0.5, 0, 0.3, math.pi, 0, 0)
    numbers = {
        "action_dict/cartesian_position": rows(*place),
        "action_dict/cartesian_velocity": rows(1, 0, 0, 0, 0, 0.5),
        "action_dict/gripper_position": rows(1),
        "action_dict/joint_position": rows(*[0.1] * 7),
        "action_dict/joint_velocity": rows(0.5, *[0] * 6),
        "observation/cartesian_position": rows(*place),
        "observation/gripper_position": rows(1),
        "observation/joint_position": rows(*[0] * 7),
    }
    ours, theirs = droid.standardize(numbers), droid.upstream(numbers)
    close(ours["delta"], [0.075, 0, 0, 0, 0, 0.075])
    close(theirs["delta"], [1, 0, 0, 0, 0, 0.5])
    close(ours["joint_velocities"][:, 0], 1.5)
    assert (ours["gripper"][0], theirs["gripper"][0]) == (0, 1)
    assert ours["target_gripper"][0] == theirs["target_gripper"][0] == 0
