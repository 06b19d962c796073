"""Published mixtures of Open X-Embodiment by name: datasets and weights.

Names without a suffix are OpenVLA's; `..._octo` are Octo's of the same name, which differ. OpenVLA and Octo multiply
the weights by each dataset's number of transitions over all of its splits; `DataConfig.weigh_by_size` by those of the
split that is trained on. A dataset that a published list names twice has its first weight, as there. `bridge_orig` is
OpenVLA's name for the folder published as `bridge_dataset`, which is its name here.
"""

import dataclasses

from data_pipelines.config import MixtureEntry
from data_pipelines.discovery import dataset_files, specs
from vla_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedMixture:
    weights: dict[str, float]
    source: str
    weigh_by_size: bool = True
    """What its publisher trained with."""


OPENVLA = "OpenVLA, prismatic/vla/datasets/rlds/oxe/mixtures.py at c8f03f4"
OPENVLA_OFT = "OpenVLA-OFT, prismatic/vla/datasets/rlds/oxe/mixtures.py at 213c5ff"
OCTO = "Octo, octo/data/oxe/oxe_dataset_mixes.py at 241fb35"

RTX = {
    "fractal20220817_data": 0.54087122203,
    "kuka": 0.8341046294,
    "bridge_dataset": 1.0,
    "taco_play": 2.0,
    "jaco_play": 2.0,
    "berkeley_cable_routing": 3.0,
    "roboturk": 1.0,
    "viola": 2.0,
    "berkeley_autolab_ur5": 1.0,
    "toto": 1.0,
}
RTX_OCTO = RTX | {"nyu_door_opening_surprising_effectiveness": 5.0}
# Upstream's list of Franka sets also names taco_play, berkeley_cable_routing, viola and toto, which RTX has.
FRANKA = {
    "stanford_hydra_dataset_converted_externally_to_rlds": 1.0,
    "austin_buds_dataset_converted_externally_to_rlds": 3.0,
    "nyu_franka_play_dataset_converted_externally_to_rlds": 3.0,
    "maniskill_dataset_converted_externally_to_rlds": 0.1,
    "furniture_bench_dataset_converted_externally_to_rlds": 0.1,
    "cmu_franka_exploration_dataset_converted_externally_to_rlds": 5.0,
    "austin_sailor_dataset_converted_externally_to_rlds": 1.0,
    "austin_sirius_dataset_converted_externally_to_rlds": 1.0,
    "berkeley_rpt_converted_externally_to_rlds": 1.0,
    "kaist_nonprehensile_converted_externally_to_rlds": 3.0,
    "stanford_robocook_converted_externally_to_rlds": 1.0,
    "iamlab_cmu_pickup_insert_converted_externally_to_rlds": 1.0,
    "utaustin_mutex": 1.0,
    "cmu_play_fusion": 1.0,
}
MAGIC_SOUP = {
    "fractal20220817_data": 0.54087122203,
    "kuka": 0.8341046294,
    "bridge_dataset": 1.0,
    "taco_play": 2.0,
    "jaco_play": 1.0,
    "berkeley_cable_routing": 1.0,
    "roboturk": 2.0,
    "viola": 2.0,
    "berkeley_autolab_ur5": 2.0,
    "toto": 1.0,
    "language_table": 0.1,
    "stanford_hydra_dataset_converted_externally_to_rlds": 2.0,
    "austin_buds_dataset_converted_externally_to_rlds": 1.0,
    "nyu_franka_play_dataset_converted_externally_to_rlds": 3.0,
    "furniture_bench_dataset_converted_externally_to_rlds": 0.1,
    "ucsd_kitchen_dataset_converted_externally_to_rlds": 2.0,
    "austin_sailor_dataset_converted_externally_to_rlds": 1.0,
    "austin_sirius_dataset_converted_externally_to_rlds": 1.0,
    "dlr_edan_shared_control_converted_externally_to_rlds": 1.0,
    "iamlab_cmu_pickup_insert_converted_externally_to_rlds": 1.0,
    "utaustin_mutex": 1.0,
    "berkeley_fanuc_manipulation": 2.0,
    "cmu_stretch": 1.0,
}
MAGIC_SOUP_OCTO = MAGIC_SOUP | {"nyu_door_opening_surprising_effectiveness": 1.0, "bc_z": 0.2}
MAGIC_SOUP_PLUS = MAGIC_SOUP | {"bc_z": 0.2, "fmb_dataset": 1.0, "dobbe": 0.2, "droid": 0.06}
MAGIC_SOUP_PLUS_MINUS = {
    name: weight
    for name, weight in (MAGIC_SOUP_PLUS | {"fractal20220817_data": 1.0}).items()
    if name not in ("language_table", "droid")
}
FLEX_ACT_SOUP = MAGIC_SOUP_OCTO | {
    "berkeley_mvp_converted_externally_to_rlds": 1.0,
    "gnm_dataset": 1.0,
    "aloha_static_dataset": 3.0,
    "aloha_mobile_dataset": 2.0,
    "dobbe": 1.0,
    "roboset": 0.5,
    "rh20t": 0.5,
}
FULL_OCTO = dict.fromkeys(
    (
        *RTX_OCTO,
        *FRANKA,
        "language_table",
        "columbia_cairlab_pusht_real",
        "stanford_kuka_multimodal_dataset_converted_externally_to_rlds",
        "nyu_rot_dataset_converted_externally_to_rlds",
        "ucsd_kitchen_dataset_converted_externally_to_rlds",
        "ucsd_pick_and_place_dataset_converted_externally_to_rlds",
        "bc_z",
        "utokyo_pr2_opening_fridge_converted_externally_to_rlds",
        "utokyo_pr2_tabletop_manipulation_converted_externally_to_rlds",
        "utokyo_xarm_pick_and_place_converted_externally_to_rlds",
        "utokyo_xarm_bimanual_converted_externally_to_rlds",
        "robo_net",
        "berkeley_mvp_converted_externally_to_rlds",
        "stanford_mask_vit_converted_externally_to_rlds",
        "tokyo_u_lsmo_converted_externally_to_rlds",
        "dlr_sara_pour_converted_externally_to_rlds",
        "dlr_sara_grid_clamp_converted_externally_to_rlds",
        "dlr_edan_shared_control_converted_externally_to_rlds",
        "asu_table_top_converted_externally_to_rlds",
        "imperialcollege_sawyer_wrist_cam",
        "uiuc_d3field",
        "berkeley_fanuc_manipulation",
        "cmu_playing_with_food",
        "cmu_stretch",
        "gnm_dataset",
    ),
    1.0,
)
LIBERO = dict.fromkeys((f"libero_{suite}_no_noops" for suite in ("spatial", "object", "goal", "10")), 1.0)

PUBLISHED = {
    "bridge": PublishedMixture(weights={"bridge_dataset": 1.0}, source=OPENVLA),
    "bridge_rt_1": PublishedMixture(weights={"bridge_dataset": 1.0, "fractal20220817_data": 1.0}, source=OPENVLA),
    "rtx": PublishedMixture(weights=RTX, source=OPENVLA),
    "rtx_octo": PublishedMixture(weights=RTX_OCTO, source=OCTO),
    "rtx_franka": PublishedMixture(weights=RTX | FRANKA, source=OPENVLA),
    "rtx_franka_octo": PublishedMixture(weights=RTX_OCTO | FRANKA, source=OCTO),
    "oxe_magic_soup": PublishedMixture(weights=MAGIC_SOUP, source=OPENVLA),
    "oxe_magic_soup_octo": PublishedMixture(weights=MAGIC_SOUP_OCTO, source=OCTO),
    "oxe_magic_soup_plus": PublishedMixture(weights=MAGIC_SOUP_PLUS, source=OPENVLA),
    "oxe_magic_soup_plus_minus": PublishedMixture(weights=MAGIC_SOUP_PLUS_MINUS, source=OPENVLA),
    "oxe_flex_act_soup": PublishedMixture(weights=FLEX_ACT_SOUP, source=OCTO),
    "oxe_full_octo": PublishedMixture(weights=FULL_OCTO, source=f"{OCTO} (OXE_FULL_MIX, which no name leads to there)"),
    "libero_4_task_suites_no_noops": PublishedMixture(weights=LIBERO, source=OPENVLA_OFT),
}


def mixture(name: str) -> tuple[MixtureEntry, ...]:
    """A published mixture, or, as in OpenVLA, a dataset's name for that dataset alone."""
    if name in PUBLISHED:
        return tuple(MixtureEntry(name=dataset, weight=w) for dataset, w in PUBLISHED[name].weights.items())
    datasets = sorted(spec.name for file in dataset_files().values() for spec in specs(file))
    if name in datasets:
        return (MixtureEntry(name=name),)
    raise InputError(
        f"no mixture {name!r}; there are {sorted(PUBLISHED)}, and each dataset alone, by its name: {datasets}"
    )
