"""Small RLDS datasets with the true feature tree of any dataset that has a file, and its grippers' raw commands.

Pictures, and tensors too wide for the index, keep their kind but lose their size. Numbers are random; those that must
be something particular (homogeneous matrices) are made in `PARTICULAR`. Axes: time.
"""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from data_pipelines.index.dataset_directory import MAX_NUMBERS, Feature
from data_pipelines.spec import DatasetSpec
from data_pipelines.writer import DatasetWriter, Episode
from tests.oxe_trees import tree_of

STEPS = "steps/"
PICTURE = (8, 8)
WIDE = (9, 9)
"""Of tensors of more than MAX_NUMBERS, which the index leaves out as it does the true ones."""
INSTRUCTION = "Put the can down"
OPEN_CLOSED = (1, 1, 0, 0, 1)
"""Openness of the five steps of every episode."""


class Gripper(NamedTuple):
    """How a raw number says open and closed."""

    key: str
    index: int | None
    """None: the feature is one number."""
    open: float
    closed: float


COMMANDED = {
    "fractal20220817_data": Gripper("action/gripper_closedness_action", 0, -1, 1),
    "kuka": Gripper("action/gripper_closedness_action", 0, -1, 1),
    "bridge": Gripper("action/open_gripper", None, 1, 0),
    "bridge_dataset": Gripper("action", 6, 1, 0),
    "bridge_data_msr": Gripper("action", 6, 1, 0),
    "taco_play": Gripper("action/rel_actions_world", 6, 1, -1),
    "jaco_play": Gripper("action/gripper_closedness_action", 0, -1, 1),
    "roboturk": Gripper("action/gripper_closedness_action", 0, -1, 1),
    "nyu_door_opening_surprising_effectiveness": Gripper("action/gripper_closedness_action", 0, -1, 1),
    "viola": Gripper("action/gripper_closedness_action", None, -1, 1),
    "berkeley_autolab_ur5": Gripper("action/gripper_closedness_action", None, -1, 1),
    "toto": Gripper("action/open_gripper", None, 1, 0),
    "columbia_cairlab_pusht_real": Gripper("action/gripper_closedness_action", None, -1, 1),
    "nyu_rot_dataset_converted_externally_to_rlds": Gripper("action", 6, 0, 1),
    "stanford_hydra_dataset_converted_externally_to_rlds": Gripper("action", 6, 0, 1),
    "austin_buds_dataset_converted_externally_to_rlds": Gripper("action", 6, -1, 1),
    "nyu_franka_play_dataset_converted_externally_to_rlds": Gripper("action", 13, 1, -1),
    "maniskill_dataset_converted_externally_to_rlds": Gripper("action", 6, 1, -1),
    "furniture_bench_dataset_converted_externally_to_rlds": Gripper("action", 7, -1, 1),
    "cmu_franka_exploration_dataset_converted_externally_to_rlds": Gripper("action", 6, 1, 0),
    "austin_sailor_dataset_converted_externally_to_rlds": Gripper("action", 6, -1, 1),
    "austin_sirius_dataset_converted_externally_to_rlds": Gripper("action", 6, -1, 1),
    "bc_z": Gripper("action/future/target_close", 0, 0, 1),
    "utokyo_xarm_bimanual_converted_externally_to_rlds": Gripper("action", 13, 0, 1),
    "utaustin_mutex": Gripper("action", 6, -1, 1),
    "cmu_playing_with_food": Gripper("action", 7, 1, 0),
    "cmu_play_fusion": Gripper("action", 7, 1, 0),
    "cmu_stretch": Gripper("action", 6, 1, 0),
    "droid": Gripper("action_dict/gripper_position", 0, 0, 1),
    "conq_hose_manipulation": Gripper("action", 6, 1, 0),
    "dobbe": Gripper("action", 6, 1, 0),
    "fmb_dataset": Gripper("action", 6, 0, 1),
    "libero_spatial_no_noops": Gripper("action", 6, -1, 1),
    "mujoco_manip": Gripper("action", 6, 0, 255),
    "plex_robosuite": Gripper("action", 6, -1, 1),
    "rh20t": Gripper("action/gripper", None, 1, 0),
    "roboset": Gripper("action", 7, -1, 1),
    "tdroid_carrot_in_bowl": Gripper("action", 6, 1, 0),
    "tabletop_arm": Gripper("action", 7, 1, 0),
    "tabletop_gantry": Gripper("action", 4, 1, 0),
    "aloha1_put_X_into_pot_300_demos": Gripper("action", 13, 1, 0),
    "aloha_static_dataset": Gripper("action", 13, 1, 0),
    "aloha_mobile_dataset": Gripper("action", 13, 1, 0),
    "utokyo_pr2_opening_fridge_converted_externally_to_rlds": Gripper("action", 6, 0, 1),
    "utokyo_xarm_pick_and_place_converted_externally_to_rlds": Gripper("action", 6, 0, 1),
    "robo_net": Gripper("action", 4, -1, 1),
    "berkeley_mvp_converted_externally_to_rlds": Gripper("action", 7, 0, 1),
    "berkeley_rpt_converted_externally_to_rlds": Gripper("action", 7, 0, 1),
    "stanford_mask_vit_converted_externally_to_rlds": Gripper("action", 4, -1, 1),
    "tokyo_u_lsmo_converted_externally_to_rlds": Gripper("action", 6, 0, 1),
    "dlr_sara_pour_converted_externally_to_rlds": Gripper("action", 6, 0, 1),
    "dlr_edan_shared_control_converted_externally_to_rlds": Gripper("action", 6, 0, 1),
    "imperialcollege_sawyer_wrist_cam": Gripper("action", 6, 0, 1),
    "iamlab_cmu_pickup_insert_converted_externally_to_rlds": Gripper("action", 7, 1, 0),
}
"""By the name of the file: what `target_gripper` is made from."""
COMMANDED_BY_NEXT_STATE = {"berkeley_fanuc_manipulation", "stanford_robocook_converted_externally_to_rlds"}
"""Files whose `target_gripper` is the openness measured at the next step."""
MEASURED = {
    "fractal20220817_data": Gripper("observation/gripper_closed", 0, 0, 1),
    "kuka": Gripper("observation/gripper_closed", 0, 0, 1),
    "bridge": Gripper("observation/state", 6, 1, 0),
    "bridge_dataset": Gripper("observation/state", 6, 1, 0),
    "bridge_data_msr": Gripper("observation/state", 6, 1, 0),
    "taco_play": Gripper("observation/robot_obs", 6, 0.08, 0),
    "viola": Gripper("observation/gripper_states", 0, 0.08, 0),
    "berkeley_autolab_ur5": Gripper("observation/robot_state", 13, 0, 1),
    "nyu_rot_dataset_converted_externally_to_rlds": Gripper("observation/state", 6, 0, 1),
    "stanford_hydra_dataset_converted_externally_to_rlds": Gripper("observation/state", 24, 0.08, 0),
    "austin_buds_dataset_converted_externally_to_rlds": Gripper("observation/state", 7, 0.08, 0),
    "maniskill_dataset_converted_externally_to_rlds": Gripper("observation/state", 7, 0.04, 0),
    "furniture_bench_dataset_converted_externally_to_rlds": Gripper("observation/state", 34, 0.08, 0),
    "ucsd_pick_and_place_dataset_converted_externally_to_rlds": Gripper("observation/state", 6, 6.03, 0),
    "austin_sailor_dataset_converted_externally_to_rlds": Gripper("observation/state_gripper", 0, 0.077, 0),
    "austin_sirius_dataset_converted_externally_to_rlds": Gripper("observation/state_gripper", 0, 0.077, 0),
    "bc_z": Gripper("observation/present/sensed_close", 0, 0, 1),
    "utaustin_mutex": Gripper("observation/state", 7, 0.08, 0),
    "berkeley_fanuc_manipulation": Gripper("observation/state", 6, 0, 1),
    "cmu_play_fusion": Gripper("observation/state", 7, 0.085, 0),
    "droid": Gripper("observation/gripper_position", 0, 0, 1),
    "dobbe": Gripper("observation/gripper", 0, 1, 0),
    "fmb_dataset": Gripper("observation/state_gripper_pose", None, 0, 1),
    "libero_spatial_no_noops": Gripper("observation/state", 6, 0.08, 0),
    "tabletop_arm": Gripper("observation/state", 13, 1, 0),
    "tabletop_gantry": Gripper("observation/state", 4, 1, 0),
    "aloha1_put_X_into_pot_300_demos": Gripper("observation/state", 13, 1, 0),
    "aloha_static_dataset": Gripper("observation/state", 13, 1, 0),
    "aloha_mobile_dataset": Gripper("observation/state", 13, 1, 0),
    "utokyo_pr2_opening_fridge_converted_externally_to_rlds": Gripper("observation/state", 6, 86.66, 0),
    "berkeley_mvp_converted_externally_to_rlds": Gripper("observation/gripper", None, 0, 1),
    "berkeley_rpt_converted_externally_to_rlds": Gripper("observation/gripper", None, 0, 1),
    "stanford_mask_vit_converted_externally_to_rlds": Gripper("observation/end_effector_pose", 4, 1, 0),
    "tokyo_u_lsmo_converted_externally_to_rlds": Gripper("observation/state", 12, 0, 1),
    "dlr_edan_shared_control_converted_externally_to_rlds": Gripper("observation/state", 6, 0, 1),
    "stanford_robocook_converted_externally_to_rlds": Gripper("observation/state", 6, 0.08, 0),
    "iamlab_cmu_pickup_insert_converted_externally_to_rlds": Gripper("observation/state", 7, 1, 0),
}
"""By the name of the file: what `gripper` is made from."""


def _matrices(generator: np.random.Generator, length: int) -> np.ndarray:
    """Homogeneous, [time, 16], column after column."""
    matrix = np.tile(np.eye(4), (length, 1, 1))
    matrix[:, :3, :3] = Rotation.random(length, rng=generator).as_matrix()
    matrix[:, :3, 3] = generator.normal(size=(length, 3))
    return matrix.swapaxes(1, 2).reshape(length, 16)


def _rows_of_matrices(generator: np.random.Generator, length: int) -> np.ndarray:
    """[time, 4, 4], row after row."""
    return _matrices(generator, length).reshape(length, 4, 4).swapaxes(1, 2)


def _after(count: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Matrices behind so many other numbers."""
    return lambda generator, length: np.concatenate(
        [generator.normal(size=(length, count)), _matrices(generator, length)], axis=1
    )


def _constant(value: float, width: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    return lambda generator, length: np.full((length, width), value)


def _zero_from(first: int, count: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    return lambda generator, length: generator.normal(size=(length, count)) * (np.arange(count) < first)


PARTICULAR = {
    ("viola", "observation/ee_states"): _after(0),
    ("austin_buds_dataset_converted_externally_to_rlds", "observation/state"): _after(8),
    ("austin_sailor_dataset_converted_externally_to_rlds", "observation/state_ee"): _after(0),
    ("austin_sirius_dataset_converted_externally_to_rlds", "observation/state_ee"): _after(0),
    ("utaustin_mutex", "observation/state"): _after(8),
    ("uiuc_d3field", "observation/state"): _rows_of_matrices,
    ("libero_spatial_no_noops", "observation/state"): _zero_from(6, 8),
    ("stanford_mask_vit_converted_externally_to_rlds", "observation/low_bound"): _constant(0, 5),
    ("stanford_mask_vit_converted_externally_to_rlds", "observation/high_bound"): _constant(1, 5),
}
"""By file and key: [time, ...]."""
UNPUBLISHED = {
    "aloha_static_dataset": {"action": (14,), "observation/state": (14,)},
    "aloha1_put_X_into_pot_300_demos": {"action": (14,), "observation/state": (14,)},
    "gnm_dataset": {"observation/position": (2,), "observation/yaw": (1,)},
    "libero_spatial_no_noops": {"action": (7,), "observation/state": (8,), "observation/joint_state": (7,)},
    "mujoco_manip": {"action": (7,)},
    "rh20t": {"action/tcp_base": (6,), "action/gripper": (), "observation/tcp_base": (6,)},
    "tdroid_carrot_in_bowl": {"action": (7,), "observation/cartesian_position": (6,)},
    "tabletop_arm": {"action": (8,), "observation/state": (14,)},
    "tabletop_gantry": {"action": (5,), "observation/state": (5,)},
}
"""By file: shapes of the numbers of datasets whose tree is not that of Open X-Embodiment's catalog."""


def features_of(file: str, spec: DatasetSpec) -> tuple[dict[str, Feature], dict[str, tuple[str, ...]]]:
    """The true tree's features by key, and the parts of keys with slashes of their own."""
    tree = tree_of(spec.name)
    if tree is None:
        return _declared(file, spec), {}
    features = {key: _feature(key, *leaf[:4]) for key, leaf in tree["features"].items()}
    return features, {key: tuple(leaf[4]) for key, leaf in tree["features"].items() if leaf[4]}


def _declared(file: str, spec: DatasetSpec) -> dict[str, Feature]:
    """Of a dataset without a published tree: what its SPEC reads."""
    assert file in UNPUBLISHED, f"{spec.name} has no tree in oxe_trees.json.gz: add the shapes of its numbers here"
    numbers = {STEPS + key: Feature("number", shape, "float32") for key, shape in UNPUBLISHED[file].items()}
    cameras = {STEPS + key: Feature("image", (*PICTURE, 3), "uint8") for key in spec.cameras.values()}
    return numbers | cameras | {STEPS + key: Feature("text") for key in spec.languages}


def _feature(key: str, kind: str, shape: list[int], dtype: str, encoding: str) -> Feature:
    if kind == "Image":
        return Feature("image", (*PICTURE, shape[2]), dtype, encoding=encoding or "jpeg")
    if kind == "Sequence":
        return Feature("left_out", tuple(shape[1:]), dtype)
    if dtype == "string":
        return Feature("text")
    if key.endswith("/instruction"):
        return Feature("text", tuple(shape), dtype)
    small = tuple(shape) if math.prod(shape) <= MAX_NUMBERS else WIDE
    return Feature("number", small, dtype, encoding=encoding)


def write_dataset(root: Path, file: str, spec: DatasetSpec, *, episodes: int = 2) -> Path:
    """`root/NAME/VERSION` with the split `train`; every episode opens and closes the gripper as `OPEN_CLOSED`."""
    features, parts = features_of(file, spec)
    writer = DatasetWriter(spec.name, spec.version, features, key_parts=parts)
    folder = root / spec.name / spec.version
    generator = np.random.default_rng(0)
    written = [_episode(file, features, generator) for _ in range(episodes)]
    writer.write(folder, {"train": written}, episodes_per_shard=episodes)
    return folder


def _episode(file: str, features: dict[str, Feature], generator: np.random.Generator) -> Episode:
    length = len(OPEN_CLOSED)
    episode = {key: _values(key, feature, length, generator) for key, feature in features.items()}
    for (name, key), make in PARTICULAR.items():
        if name == file and STEPS + key in episode:
            episode[STEPS + key] = make(generator, length)
    for grippers in (COMMANDED, MEASURED):
        if file in grippers:
            _plant(grippers[file], episode)
    return episode


def _plant(gripper: Gripper, episode: Episode) -> None:
    column = episode[STEPS + gripper.key] = np.array(episode[STEPS + gripper.key])
    raw = np.where(OPEN_CLOSED, gripper.open, gripper.closed)
    if gripper.index is None:
        column[...] = raw.reshape(column.shape)
    else:
        column[:, gripper.index] = raw


def _values(key: str, feature: Feature, length: int, generator: np.random.Generator):
    count = length if key.startswith(STEPS) else 1
    if feature.kind == "image":
        values = [_picture(feature, number) for number in range(count)]
    elif feature.kind == "text":
        values = [INSTRUCTION] * count
    elif feature.kind == "left_out":
        values = [np.zeros((number % 3, *feature.shape), feature.dtype) for number in range(count)]
    elif np.issubdtype(feature.dtype, np.floating):
        values = generator.normal(scale=0.3, size=(count, *feature.shape)).astype(feature.dtype)
    else:
        values = generator.integers(0, 2, (count, *feature.shape)).astype(feature.dtype)
    return values if key.startswith(STEPS) else values[0]


def _picture(feature: Feature, number: int) -> bytes:
    """A flat one; floats are stored as PNG with their four bytes for channels, as TFDS does."""
    stream = io.BytesIO()
    if feature.dtype == "uint16":
        Image.fromarray(np.full(PICTURE, 1000 + number, np.uint16)).save(stream, "PNG")
    elif feature.dtype == "float32":
        bytes_of = np.full((*PICTURE, 1), 0.5 + number, np.float32).view(np.uint8)
        Image.fromarray(bytes_of, "RGBA").save(stream, "PNG")
    else:
        flat = np.full((*PICTURE, feature.shape[2]), 40 + 20 * number, np.uint8)
        Image.fromarray(flat.squeeze()).save(stream, "PNG" if feature.encoding == "png" else "JPEG")
    return stream.getvalue()
