"""Every file of `datasets/`, found by listing the folder, on a small dataset that has its true feature tree."""

import json

import numpy as np
import pytest

from data_pipelines.action_spaces import delta_pose, joint_position, relative_pose
from data_pipelines.config import CropConfig, DataConfig, MixtureEntry
from data_pipelines.discovery import dataset_files, find_dataset, specs
from data_pipelines.index.dataset_directory import read_directory
from data_pipelines.index.sidecar import open_index
from data_pipelines.pipeline import open_pipeline
from data_pipelines.schema import COLUMNS
from data_pipelines.table import open_table
from tests.oxe_episodes import (
    COMMANDED,
    COMMANDED_BY_NEXT_STATE,
    INSTRUCTION,
    MEASURED,
    OPEN_CLOSED,
    write_dataset,
)
from tests.oxe_trees import compact, read, tree_of
from vla_jax.types import CameraRequirement, DataRequirements

ALL = [(file, spec) for file, module in dataset_files().items() for spec in specs(module)]
NAMES = [spec.name for _, spec in ALL]
POSES = ("pose", "target_pose", "left_pose", "left_target_pose")
GRIPPERS = ("gripper", "target_gripper", "left_gripper", "left_target_gripper")
SPACES = (delta_pose, relative_pose, joint_position)
FROM_NEXT_STATE = {
    "berkeley_fanuc_manipulation",
    "cmu_playing_with_food",
    "dlr_sara_pour_converted_externally_to_rlds",
    "stanford_mask_vit_converted_externally_to_rlds",
    "stanford_robocook_converted_externally_to_rlds",
    "uiuc_d3field",
}
"""Files whose motion or gripper command is made of the next state, here or when it was published."""
WITHOUT_SPACE = {"base_delta", "joint_velocities"}
"""Columns of datasets that no action space here reads yet."""


def test_the_committed_trees_are_those_of_the_design(shared_data):
    source = shared_data.parent / "design" / "oxe_features.json"
    assert compact(json.loads(source.read_text())) == read()


@pytest.mark.parametrize(("file", "spec"), ALL, ids=NAMES)
def test_spec_names_what_the_tree_has(file, spec):
    for given in (spec.cameras, spec.numbers, spec.source, spec.version):
        assert given
    assert file in NAMES
    tree = tree_of(spec.name)
    if tree is None:
        assert not spec.is_verified or file.startswith("tabletop"), "a tree that nobody published cannot be verified"
        return
    named = (*spec.cameras.values(), *(depth.key for depth in spec.depths.values()), *spec.languages, *spec.numbers)
    assert {f"steps/{key}" for key in named} <= tree["features"].keys()
    kinds = {tree["features"][f"steps/{key}"][0] for key in spec.cameras.values()}
    assert kinds == {"Image"}
    of_another_build = spec.version == "unknown" or spec.name in ("bridge_dataset", "bridge_orig")
    if tree["location"] and not of_another_build:
        assert tree["location"].endswith(f"/{spec.version}")
    for split, count in spec.episodes.items():
        assert tree["splits"].get(split, count) == count


@pytest.mark.parametrize(("file", "spec"), ALL, ids=NAMES)
def test_true_tree_becomes_index_table_statistics_and_a_batch(tmp_path, file, spec):
    directory = read_directory(write_dataset(tmp_path, file, spec))
    index = open_index(directory, "train", tmp_path / "cache")
    assert index.num_steps == 2 * len(OPEN_CLOSED)
    assert {text for text in index.texts if text} == {INSTRUCTION}
    columns = open_table(find_dataset(spec.name), index, tmp_path / "cache").columns
    _check_schema(columns, index)
    if "delta" in columns:
        assert columns["delta_valid"][last_steps(index)].tolist() == [file not in FROM_NEXT_STATE] * 2
    else:
        np.testing.assert_array_equal(columns["delta_valid"], columns["target_valid"])
    for key in set(GRIPPERS) & columns.keys():
        assert 0 <= columns[key].min() <= columns[key].max() <= 1, key
    _check_gripper(columns, "target_gripper", COMMANDED, file)
    _check_gripper(columns, "gripper", MEASURED, file)
    fitting = [form for form in SPACES if set(form.REQUIRED) <= columns.keys()]
    for form in fitting:
        _check_batch(tmp_path, spec, form, columns)
    assert fitting or WITHOUT_SPACE & columns.keys(), "no action space here reads what it gives"


@pytest.mark.parametrize(
    "file", sorted(file for file, module in dataset_files().items() if hasattr(module, "upstream"))
)
def test_upstream_gives_other_values_in_the_same_schema(tmp_path, file):
    spec = find_dataset(file).spec
    index = open_index(read_directory(write_dataset(tmp_path, file, spec)), "train", tmp_path / "cache")
    ours, theirs = (open_table(find_dataset(file, form), index, tmp_path / "cache") for form in ("correct", "upstream"))
    _check_schema(theirs.columns, index)
    assert ours.digest != theirs.digest
    same = ours.columns.keys() == theirs.columns.keys()
    assert not same or any(not np.array_equal(ours.columns[key], theirs.columns[key]) for key in ours.columns)


def test_mixture_entry_chooses_upstreams_standardisation(tmp_path):
    spec = find_dataset("bridge").spec
    write_dataset(tmp_path, "bridge", spec)
    ours, theirs = (_open(tmp_path, spec, delta_pose.action_space(1), form) for form in ("correct", "upstream"))
    assert ours.statistics != theirs.statistics
    assert len(ours.sources[0].anchors) == len(theirs.sources[0].anchors) + 4  # upstream drops each first and last step


@pytest.mark.parametrize(
    ("file", "standardization", "num_motions", "num_poses"),
    [
        ("fractal20220817_data", "correct", 10, 8),
        ("viola", "correct", 10, 8),
        ("bridge_dataset", "correct", 10, 8),
        ("bridge_dataset", "upstream", 6, 6),
    ],
)
def test_the_last_published_motion_is_sampled_and_supervised_one_made_of_the_next_pose_is_not(
    tmp_path, file, standardization, num_motions, num_poses
):
    """Two episodes of five steps; upstream's Bridge keeps the three in the middle."""
    spec = find_dataset(file).spec
    write_dataset(tmp_path, file, spec)
    is_published = standardization == "correct"
    for form, is_last_kept, count in ((delta_pose, is_published, num_motions), (relative_pose, False, num_poses)):
        source = _open(tmp_path, spec, form.action_space(1), standardization).sources[0]
        last = last_steps(source.index)
        assert np.isin(last, source.anchors).tolist() == [is_last_kept] * 2
        assert source.numbers(last)[2].tolist() == [[is_last_kept]] * 2
        assert source.statistics(tmp_path / "cache").summary.action.count == count


def test_every_difference_from_upstream_is_said():
    for file, module in dataset_files().items():
        differences = getattr(module, "DIFFERENCES", ())
        assert all(text.endswith(".") for text in differences), file
        assert differences or not hasattr(module, "upstream"), f"{file}: upstream, and not a word on how it differs"


def last_steps(index):
    return np.asarray(index.first_step[1:]) - 1


def _check_schema(columns, index):
    assert columns["finite"].all()
    assert columns["target_valid"].any()
    assert columns["delta_valid"].any()
    if "delta" in columns:
        nothing = ~columns["delta"][last_steps(index)].any(1)
        assert not (nothing & columns["delta_valid"][last_steps(index)]).any(), "made of the next state: delta_valid?"
    if {"delta", "target_joints"} <= columns.keys():
        assert (columns["delta_valid"] <= columns["target_valid"]).all(), "the unified vector has one mask for both"
    for key, column in columns.items():
        assert COLUMNS[key].fits(column.shape, index.num_steps), key
        assert column.dtype == COLUMNS[key].dtype, key
    for key in set(POSES) & columns.keys():
        np.testing.assert_allclose(np.linalg.norm(columns[key][:, 3:], axis=1), 1, atol=1e-5, err_msg=key)


def _check_batch(root, spec, form, columns):
    pipeline = _open(root, spec, form.action_space(2, "quantile"))
    batch, statistics = pipeline.batch(0), pipeline.statistics[spec.name]
    for part in ("action", "proprio"):
        assert all(np.isfinite(statistics[part][key]).all() for key in ("mean", "std", "q01", "q99")), part
    available = getattr(form, "available", lambda columns: np.ones(batch.action.shape[-1], bool))(columns)
    assert np.isfinite(batch.action).all()
    assert np.isfinite(batch.observation.proprio).all()
    assert batch.action_mask.any(axis=(0, 1, 2)).tolist() == available.tolist()
    assert all(batch.observation.images[slot].any() for slot in spec.cameras)
    assert batch.observation.instruction_mask.any() == bool(spec.languages)


def _check_gripper(columns, key, grippers, file):
    if key in columns:
        follows = key == "target_gripper" and file in COMMANDED_BY_NEXT_STATE
        assert follows or file in grippers, f"{file} gives {key}: say in tests/oxe_episodes.py what its raw gripper is"
        expected = (*OPEN_CLOSED[1:], OPEN_CLOSED[-1]) if follows else OPEN_CLOSED
        np.testing.assert_allclose(columns[key], expected * 2, atol=1e-6, err_msg=key)


def _open(root, spec, space, standardization="correct"):
    requirements = DataRequirements(
        action_space=space,
        cameras=tuple(CameraRequirement(slot=slot, height=8, width=8) for slot in spec.cameras),
        window=1,
        window_anchor="last",
        text_length=4,
    )
    entry = MixtureEntry(name=spec.name, standardization=standardization)
    data = DataConfig(root=str(root), mixture=(entry,), crop=CropConfig(slots=tuple(spec.cameras)[:1]))
    return open_pipeline(data, requirements, _tokenize, seed=0, batch_size=4, cache=root / "cache", quarantine=None)


def _tokenize(texts):
    lengths = np.array([min(len(text), 4) for text in texts])
    return np.ones((len(texts), 4), np.int32), np.arange(4) < lengths[:, None]
