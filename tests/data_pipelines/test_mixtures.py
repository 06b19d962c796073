"""Published mixtures, and how much of each dataset a run sees.

The tables below are a second transcription, of data.md section 1 and, for Franka, of upstream's lists.
"""

import numpy as np
import pytest

from configs import ef_vla_oxe
from data_pipelines.action_spaces import relative_pose
from data_pipelines.config import MixtureEntry
from data_pipelines.discovery import find_dataset
from data_pipelines.exposure import exposures, shares
from data_pipelines.mixture import Mixture
from data_pipelines.mixtures import PUBLISHED, mixture
from tests.oxe_trees import tree_of
from vla_jax.types import InputError

SOUP = """fractal 0.54087, kuka 0.8341, bridge_dataset 1, taco_play 2, jaco_play 1, berkeley_cable_routing 1,
roboturk 2, viola 2, berkeley_autolab_ur5 2, toto 1, language_table 0.1, stanford_hydra 2, austin_buds 1,
nyu_franka_play 3, furniture_bench 0.1, ucsd_kitchen 2, austin_sailor 1, austin_sirius 1, dlr_edan 1,
iamlab_cmu_pickup_insert 1, utaustin_mutex 1, berkeley_fanuc 2, cmu_stretch 1"""
RTX_OCTO = """fractal .54087, kuka .8341, bridge_dataset 1, taco_play 2, jaco_play 2, berkeley_cable_routing 3,
roboturk 1, nyu_door 5, viola 2, berkeley_autolab_ur5 1, toto 1"""
RTX = RTX_OCTO.replace("nyu_door 5, ", "")
FRANKA = """stanford_hydra 1, austin_buds 3, nyu_franka_play 3, maniskill .1, furniture_bench .1,
cmu_franka_exploration 5, austin_sailor 1, austin_sirius 1, berkeley_rpt 1, kaist_nonprehensile 3, stanford_robocook 1,
iamlab_cmu_pickup_insert 1, utaustin_mutex 1, cmu_play_fusion 1"""
SOUP_OCTO = f"{SOUP}, nyu_door 1, bc_z 0.2"
PLUS = f"{SOUP}, bc_z 0.2, fmb_dataset 1, dobbe 0.2, droid 0.06"
EXPECTED = {
    "bridge": "bridge_dataset 1",
    "bridge_rt_1": "bridge_dataset 1, fractal 1",
    "rtx": RTX,
    "rtx_octo": RTX_OCTO,
    "rtx_franka": f"{RTX}, {FRANKA}",
    "rtx_franka_octo": f"{RTX_OCTO}, {FRANKA}",
    "oxe_magic_soup": SOUP,
    "oxe_magic_soup_octo": SOUP_OCTO,
    "oxe_magic_soup_plus": PLUS,
    "oxe_magic_soup_plus_minus": PLUS.replace("fractal 0.54087", "fractal 1")
    .replace("language_table 0.1, ", "")
    .replace(", droid 0.06", ""),
    "oxe_flex_act_soup": f"{SOUP_OCTO}, berkeley_mvp 1, gnm_dataset 1, aloha_static 3, aloha_mobile 2, dobbe 1, "
    "roboset .5, rh20t .5",
    "libero_4_task_suites_no_noops": "libero_spatial 1, libero_object 1, libero_goal 1, libero_10 1",
}
NUM_DATASETS = {"oxe_magic_soup": 23, "oxe_magic_soup_octo": 25, "oxe_magic_soup_plus": 27, "rtx": 10, "rtx_octo": 11}
NUM_DATASETS |= {"oxe_magic_soup_plus_minus": 25, "oxe_flex_act_soup": 32, "oxe_full_octo": 50}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_weights_are_the_published_ones(name):
    expected = dict(part.split() for part in EXPECTED[name].replace("\n", " ").split(", "))
    given = mixture(name)
    assert len(given) == len(expected) == NUM_DATASETS.get(name, len(expected))
    for short, weight in expected.items():
        (entry,) = (entry for entry in given if entry.name.startswith(short))
        assert entry.weight == pytest.approx(float(weight), abs=5e-5), short


def test_octos_full_mixture_has_fifty_datasets_of_equal_weight_with_all_of_its_others_but_the_later_five():
    full = {entry.name: entry.weight for entry in mixture("oxe_full_octo")}
    assert len(full) == NUM_DATASETS["oxe_full_octo"]
    assert set(full.values()) == {1.0}
    assert set(PUBLISHED["rtx_franka_octo"].weights) <= full.keys()
    later = set(PUBLISHED["oxe_flex_act_soup"].weights) - full.keys()
    assert sorted(later) == ["aloha_mobile_dataset", "aloha_static_dataset", "dobbe", "rh20t", "roboset"]


def test_every_mixture_is_tested_here_and_says_its_source():
    assert PUBLISHED.keys() == EXPECTED.keys() | {"oxe_full_octo"}
    assert all(published.source and published.weigh_by_size for published in PUBLISHED.values())


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_every_dataset_of_a_mixture_has_a_spec(name):
    for entry in mixture(name):
        assert find_dataset(entry.name).spec.name == entry.name


def test_the_magic_soup_recipe_leaves_out_just_what_relative_pose_cannot_read():
    lacking = set()
    for entry in mixture("oxe_magic_soup"):
        dataset, features = find_dataset(entry.name), tree_of(entry.name)["features"]
        shapes = {key: features[f"steps/{key}"][1] for key in dataset.spec.numbers}
        columns = dataset.standardize({key: np.ones((3, *shape), np.float32) for key, shape in shapes.items()})
        if not set(relative_pose.REQUIRED) <= columns.keys():
            lacking.add(entry.name)
    assert lacking == set(ef_vla_oxe.WITHOUT_POSE_OR_GRIPPER)


def test_a_datasets_name_is_a_mixture_of_that_dataset_alone():
    assert mixture("tdroid_flip_pot_upright") == (MixtureEntry(name="tdroid_flip_pot_upright"),)


def test_an_unknown_mixture_is_refused_with_the_names_that_there_are():
    with pytest.raises(InputError, match=r"'oxe_magic_stew'.*'oxe_magic_soup_plus'.*'bridge_dataset'"):
        mixture("oxe_magic_stew")


def test_drawn_frequencies_are_the_weights_and_windows_come_up_equally_often():
    """25 datasets of tiny stand-in sizes, weighed by size: what Octo's magic soup draws in 20,000 samples."""
    entries, drawn = mixture("oxe_magic_soup_octo"), 20_000
    sizes = [3 + 7 * (number % 6) for number in range(len(entries))]
    order = Mixture(seed=5, sizes=tuple(sizes), weights=shares(entries, sizes, weigh_by_size=True))
    windows = [np.zeros(size, int) for size in sizes]
    for dataset, window, _ in order.planned(np.arange(drawn)):
        windows[dataset][window] += 1
    expected = exposures(entries, sizes, weigh_by_size=True, num_steps=drawn // 50, batch_size=50)
    for counts, exposure in zip(windows, expected):
        assert counts.sum() == pytest.approx(exposure.samples, abs=2), exposure.name
        assert counts.mean() == pytest.approx(exposure.epochs, abs=2 / len(counts)), exposure.name
        assert counts.max() - counts.min() <= 1, exposure.name


def test_effective_epochs():
    entries = (MixtureEntry(name="small", weight=1.0), MixtureEntry(name="large", weight=2.0))
    small, large = exposures(entries, [100, 300], weigh_by_size=True, num_steps=10, batch_size=7)
    assert (small.name, small.share, small.samples, small.epochs) == pytest.approx(("small", 1 / 7, 10, 0.1))
    assert (large.name, large.share, large.samples, large.epochs) == pytest.approx(("large", 6 / 7, 60, 0.2))
    small, large = exposures(entries, [100, 300], weigh_by_size=False, num_steps=10, batch_size=6)
    assert (small.samples, small.epochs, large.samples, large.epochs) == pytest.approx((20, 0.2, 40, 40 / 300))


def test_a_dataset_without_transitions_has_no_epochs():
    with pytest.raises(InputError, match="empty"):
        exposures((MixtureEntry(name="empty"),), [0], weigh_by_size=False, num_steps=1, batch_size=1)
