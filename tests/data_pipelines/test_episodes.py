"""The evaluation view: every step in order, only what a robot would have seen, targets un-normalised."""

import numpy as np
import pytest
from pipeline_setup import open_generated, requirements, text_of, tokenize_bytes

from data_pipelines.action_spaces import relative_pose
from data_pipelines.config import DataConfig, MixtureEntry
from data_pipelines.episodes import open_episodes
from tests.rlds_episodes import colour_of
from vla_jax.types import InputError

LENGTHS = (10, 7, 4)


def open_bridge(root, needs, **overrides):
    arguments = {"statistics": open_generated(root, needs=needs).statistics, "batch_size": 8}
    data = DataConfig(root=str(root), cache=str(root / "cache"))
    return open_episodes(root / "bridge_dataset" / "1.0.0", data, needs, tokenize_bytes, **(arguments | overrides))


def test_every_step_of_every_episode_comes_once_in_order(two_datasets):
    episodes = open_bridge(two_datasets, requirements())
    ids = np.concatenate([steps.ids for steps in episodes.batches()])
    expected = [[episode, step] for episode, length in enumerate(LENGTHS) for step in range(length)]
    assert ids.tolist() == expected
    assert (episodes.num_episodes, episodes.num_steps, episodes.num_skipped) == (3, 21, 0)


@pytest.mark.parametrize("anchor", ["first", "last"])
def test_windows_hold_the_past_only_and_are_padded_on_the_anchors_side(two_datasets, anchor):
    episodes = open_bridge(two_datasets, requirements(window=3, anchor=anchor, normalization="gaussian"))
    for steps in episodes.batches():
        for row, (episode, step) in enumerate(steps.ids):
            history = list(range(max(0, step - 2), step + 1))
            padding = 3 - len(history)
            start = 0 if anchor == "first" else padding
            expected = [start <= w < start + len(history) for w in range(3)]
            assert steps.observation.timestep_mask[row].tolist() == expected
            assert steps.observation.image_masks["primary"][row].tolist() == expected
            for w, past in enumerate(history, start=start):
                pixels = steps.observation.images["primary"][row, w].astype(int)
                assert np.abs(pixels - colour_of(episode, past, 0)).max() <= 4
            assert text_of(steps.observation.instruction_tokens[row]) == f"put object {episode} in the pot"


def test_targets_are_not_normalised_and_lead_from_the_steps_own_pose(two_datasets):
    episodes = open_bridge(two_datasets, requirements(horizon=2, normalization="quantile"))
    source = episodes.source
    for steps in episodes.batches():
        for row, (episode, step) in enumerate(steps.ids):
            here, last = source.index.first_step[episode] + step, LENGTHS[episode] - 1
            assert steps.action_mask[row, :, 0].tolist() == [step + h < last for h in range(2)]
            if step < last:
                pose, _ = relative_pose.absolute(steps.action[row, :1], source.columns["pose"][here])
                np.testing.assert_allclose(pose[0, :3], source.columns["pose"][here + 1, :3], atol=1e-5)


def test_proprio_is_normalised_with_the_given_statistics(two_datasets):
    needs = requirements(normalization="gaussian")
    own = open_generated(two_datasets, needs=needs).statistics["bridge_dataset"]
    shifted = {**own, "proprio": {**own["proprio"], "mean": [m + 1 for m in own["proprio"]["mean"]]}}
    plain = next(iter(open_bridge(two_datasets, needs).batches())).observation.proprio
    moved = next(iter(open_bridge(two_datasets, needs, statistics={"bridge_dataset": shifted}).batches()))
    std = np.array(own["proprio"]["std"])[:9]
    np.testing.assert_allclose((plain - moved.observation.proprio)[..., :9] * std, 1, atol=1e-4)


def test_a_checkpoint_that_never_saw_the_dataset_is_refused(two_datasets):
    with pytest.raises(InputError, match=r"none for the dataset 'bridge_dataset'; it has \['droid', 'kuka'\]"):
        open_bridge(two_datasets, requirements(), statistics={"kuka": {}, "droid": {}})


def test_the_real_sample_reads(shared_data, two_datasets, tmp_path):
    needs = requirements(window=2, size=(64, 64))
    statistics = open_generated(two_datasets, needs=needs).statistics
    folder = shared_data / "bridge_dataset" / "1.0.0"
    data = DataConfig(root=str(shared_data), cache=str(tmp_path), split="val")
    episodes = open_episodes(folder, data, needs, tokenize_bytes, statistics=statistics, batch_size=64)
    masks = np.concatenate([steps.action_mask for steps in episodes.batches()])
    assert masks.shape == (250, 2, 10)
    assert masks[:, 0, 0].sum() == 225


def test_a_run_trained_with_upstreams_standardisation_is_measured_with_it(two_datasets):
    needs = requirements()
    statistics = open_generated(two_datasets, needs=needs).statistics
    folder = two_datasets / "bridge_dataset" / "1.0.0"
    digests = []
    for standardization in ("correct", "upstream"):
        entry = MixtureEntry(name="bridge_dataset", standardization=standardization)
        data = DataConfig(root=str(two_datasets), cache=str(two_datasets / "cache"), mixture=(entry,))
        episodes = open_episodes(folder, data, needs, tokenize_bytes, statistics=statistics, batch_size=8)
        digests.append(episodes.source.table.digest)
    assert digests[0] != digests[1]
