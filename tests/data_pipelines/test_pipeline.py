"""Batches: what they hold, and that they are a pure function of (seed, step)."""

import threading
import time

import jax
import numpy as np
import pytest
import simplejpeg
from pipeline_setup import BOTH, open_generated, requirements, text_of
from scipy.spatial.transform import Rotation

from data_pipelines.action_spaces import relative_pose
from data_pipelines.config import CropConfig
from data_pipelines.mixture import Mixture
from tests.rlds_episodes import colour_of, write_bridge, write_fractal
from vla_jax.types import InputError

ORDER = [(0, 4), (1, 6679), (0, 2), (1, 150), (1, 8458), (0, 3), (1, 3898), (0, 1), (1, 4965), (1, 8112)]
REPLACEMENTS = [9005, 1362]

CAMERAS = ("primary", "secondary")


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def rows_of(batch, rows):
    return jax.tree.map(lambda leaf: leaf[rows], batch)


def read(pipeline, start, number, rows=None):
    with pipeline.batches(start, rows) as batches:
        return [next(batches) for _ in range(number)]


def ids_of(pipeline, number):
    return np.concatenate([pipeline.sample_ids(step) for step in range(number)])


@pytest.fixture(scope="module")
def mixed(two_datasets):
    needs = requirements(cameras=CAMERAS)
    return open_generated(two_datasets, mixture=BOTH, needs=needs, crop=CropConfig(), batch_size=6, num_threads=2)


def test_pictures_are_those_of_the_step_and_camera(two_datasets):
    """Each generated picture is a colour that names its episode, step and camera."""
    needs = requirements(cameras=CAMERAS, window=3)
    pipeline = open_generated(two_datasets, mixture=BOTH, needs=needs, crop=CropConfig())
    camera_number = {(0, "primary"): 0, (0, "secondary"): 1, (1, "primary"): 3}
    for batch in read(pipeline, 0, 10):
        for row, (dataset, episode, step) in enumerate(batch.sample_ids):
            for slot in CAMERAS:
                for w in range(3):
                    pixels = batch.observation.images[slot][row, w]
                    valid = batch.observation.image_masks[slot][row, w]
                    assert valid == (batch.observation.timestep_mask[row, w] and (dataset, slot) in camera_number)
                    colour = colour_of(episode, step + w, camera_number[dataset, slot]) if valid else (0, 0, 0)
                    assert np.abs(pixels.astype(int) - colour).max() <= (4 if valid else 0)


def test_numbers_belong_to_the_sampled_window(two_datasets):
    pipeline = open_generated(two_datasets, needs=requirements(window=3, horizon=2, normalization="gaussian"))
    source = pipeline.sources[0]
    pose, gripper = source.columns["pose"], source.columns["target_gripper"]
    to_action, to_proprio = source.normalizers(pipeline.statistics["bridge_dataset"])
    for batch in read(pipeline, 0, 4):
        assert batch.action.shape == batch.action_mask.shape == (4, 3, 2, 10)
        for row, (_, episode, step) in enumerate(batch.sample_ids):
            first, end = source.index.first_step[episode : episode + 2]
            for w in range(3):
                here = first + step + w
                assert batch.observation.timestep_mask[row, w] == (here < end)
                if here >= end:
                    assert not batch.action_mask[row, w].any()
                    continue
                proprio = to_proprio.inverse(batch.observation.proprio[row, w])
                np.testing.assert_allclose(proprio[:3], pose[here, :3], atol=1e-5)
                for h in range(2):
                    valid = here + h < end - 1  # targets are next poses
                    assert batch.action_mask[row, w, h].all() == batch.action_mask[row, w, h].any() == valid
                    if valid:
                        back, openness = relative_pose.absolute(
                            to_action.inverse(batch.action[row, w, h : h + 1]), pose[here]
                        )
                        np.testing.assert_allclose(back[0, :3], pose[here + h + 1, :3], atol=1e-5)
                        turn = Rotation.from_quat(back[0, 3:]) * Rotation.from_quat(pose[here + h + 1, 3:]).inv()
                        assert turn.magnitude() < 1e-4
                        assert openness[0] == gripper[here + h]


def test_each_dataset_is_normalised_with_its_own_statistics(two_datasets):
    needs = requirements(normalization="gaussian")
    pipeline = open_generated(two_datasets, mixture=BOTH, needs=needs, batch_size=8)
    batch = pipeline.batch(0)
    assert set(batch.sample_ids[:, 0]) == {0, 1}
    for row, (dataset, episode, step) in enumerate(batch.sample_ids):
        source = pipeline.sources[dataset]
        proprio, action, mask = source.numbers(source.index.first_step[[episode]] + step)
        to_action, to_proprio = source.normalizers(pipeline.statistics[source.name])
        np.testing.assert_allclose(to_proprio.inverse(batch.observation.proprio[row, 0]), proprio[0], atol=1e-5)
        np.testing.assert_allclose(to_action.inverse(batch.action[row, 0])[mask[0]], action[0][mask[0]], atol=1e-5)


def test_padded_steps_are_not_supervised_on_either_side(two_datasets):
    """On the left the padding repeats a step with sound targets, so that nothing but the mask says it is none."""
    for anchor in ("first", "last"):
        pipeline = open_generated(two_datasets, needs=requirements(window=5, anchor=anchor))
        batches = read(pipeline, 0, 5)
        padded = [batch.action_mask[~batch.observation.timestep_mask] for batch in batches]
        assert sum(map(len, padded)) > 0
        assert not np.concatenate(padded).any()


def test_instructions_belong_to_the_episode(mixed):
    for batch in read(mixed, 0, 3):
        for row, (dataset, episode, _) in enumerate(batch.sample_ids):
            expected = f"put object {episode} in the pot" if dataset == 0 else f"pick can {episode}"
            assert text_of(batch.observation.instruction_tokens[row]) == expected


def test_types_are_those_of_the_contract(mixed):
    batch = mixed.batch(0)
    observation = batch.observation
    assert {leaf.dtype for leaf in observation.images.values()} == {np.dtype(np.uint8)}
    assert (batch.action.dtype, observation.proprio.dtype) == (np.float32, np.float32)
    assert (batch.sample_ids.dtype, observation.instruction_tokens.dtype) == (np.int32, np.int32)
    masks = (
        batch.action_mask,
        observation.timestep_mask,
        observation.instruction_mask,
        *observation.image_masks.values(),
    )
    assert all(mask.dtype == bool for mask in masks)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(batch))


def test_no_sample_is_without_supervision(two_datasets):
    for needs in (requirements(window=1), requirements(window=3), requirements(window=2, anchor="last")):
        pipeline = open_generated(two_datasets, mixture=BOTH, needs=needs)
        assert all(batch.action_mask.any(axis=(1, 2, 3)).all() for batch in read(pipeline, 0, 20))


def test_resuming_at_any_step_gives_the_same_batches(mixed):
    whole = read(mixed, 0, 8)
    for start in (1, 3, 7):
        assert all(same(a, b) for a, b in zip(read(mixed, start, 8 - start), whole[start:], strict=True))


def test_order_is_the_same_in_another_pipeline_and_another_with_another_seed(two_datasets, mixed):
    needs = requirements(cameras=CAMERAS)
    arguments = {"mixture": BOTH, "needs": needs, "crop": CropConfig(), "batch_size": 6}
    again = open_generated(two_datasets, **arguments, num_threads=1, prefetch=1)
    assert same(read(again, 2, 1), read(mixed, 2, 1))
    other = open_generated(two_datasets, **arguments, seed=6)
    assert not np.array_equal(ids_of(other, 4), ids_of(mixed, 4))


@pytest.mark.parametrize("hosts", [1, 2, 3, 6])
def test_hosts_read_the_rows_of_the_same_global_batches(mixed, hosts):
    whole, share = read(mixed, 3, 2), 6 // hosts
    for host in range(hosts):
        rows = slice(host * share, (host + 1) * share)
        for part, batch in zip(read(mixed, 3, 2, rows), whole):
            assert same(part, rows_of(batch, rows))


def test_batch_size_does_not_change_the_order_of_samples(two_datasets):
    small = open_generated(two_datasets, mixture=BOTH, batch_size=2)
    large = open_generated(two_datasets, mixture=BOTH, batch_size=8)
    np.testing.assert_array_equal(ids_of(small, 8), ids_of(large, 2))
    assert same(rows_of(large.batch(0), slice(2, 4)), small.batch(1))


def test_sample_ids_are_those_of_the_batches(mixed):
    for step, batch in enumerate(read(mixed, 0, 5)):
        np.testing.assert_array_equal(mixed.sample_ids(step), batch.sample_ids)


def test_every_window_comes_once_an_epoch_in_a_new_order_each_time(two_datasets):
    pipeline = open_generated(two_datasets, batch_size=5, needs=requirements(window=3))
    windows = len(pipeline.sources[0].anchors)
    assert windows == (10 - 2) + (7 - 2) + (4 - 2) == 15
    ids = ids_of(pipeline, 6)
    epochs = [[tuple(row) for row in part] for part in np.split(ids, 2)]
    assert all(len(set(epoch)) == windows for epoch in epochs)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(("weights", "by_size"), [((3.0, 1.0), False), ((0.2, 0.6), False), ((1.0, 1.0), True)])
def test_mixture_frequencies_are_the_declared_ones(two_datasets, weights, by_size):
    mixture = dict(zip(BOTH, weights))
    pipeline = open_generated(two_datasets, mixture=mixture, batch_size=100, weigh_by_size=by_size)
    scaled = np.array(weights) * ([21, 15] if by_size else [1, 1])
    counts = np.bincount(ids_of(pipeline, 10)[:, 0], minlength=2)
    np.testing.assert_allclose(counts / 1000, scaled / scaled.sum(), atol=2e-3)


def test_the_order_is_the_one_that_earlier_runs_had():
    """Resuming a run under another version of Grain or numpy must not change its data: these numbers may not."""
    mixture = Mixture(seed=3, sizes=(5, 10_000), weights=(0.4, 0.6))
    assert [mixture[sample] for sample in range(10)] == ORDER
    assert [mixture.replacement(1, 7, attempt) for attempt in (1, 2)] == REPLACEMENTS


def test_a_shard_replaced_within_a_process_is_read_anew(tmp_path):
    write_bridge(tmp_path, lengths=(4,), shards=1)
    before = open_generated(tmp_path).batch(0).observation.images["primary"]
    write_bridge(tmp_path, lengths=(4, 4), shards=1, edit=lambda number, episode: episode.update(black(4)))
    after = open_generated(tmp_path).batch(0).observation.images["primary"]
    assert before.max() > 0
    assert after.max() == 0


def black(length):
    picture = simplejpeg.encode_jpeg(np.zeros((32, 32, 3), np.uint8), colorspace="RGB")
    return {f"steps/observation/image_{camera}": [picture] * length for camera in range(4)}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"crop": {"scale": (0.0, 1.0)}}, "data.crop.scale"),
        ({"crop": {"ratio": (1.2, 0.8)}}, "data.crop.ratio"),
        ({"num_threads": 0}, "num_threads=0"),
        ({"max_bad_share": 1.5}, "data.max_bad_share=1.5"),
        ({"mixture": {"bridge_dataset": 0.0}}, "weight 0.0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(two_datasets, wrong, message):
    with pytest.raises(InputError, match=message):
        open_generated(two_datasets, **(wrong | {"crop": CropConfig(**wrong["crop"])} if "crop" in wrong else wrong))


def test_crops_differ_between_samples_but_not_within_a_window(tmp_path):
    def gradient(_, episode):
        picture = np.zeros((32, 32, 3), np.uint8)
        picture[..., 0], picture[..., 1] = np.arange(32) * 8, np.arange(32)[:, None] * 8
        data = simplejpeg.encode_jpeg(picture, quality=98, colorspace="RGB", colorsubsampling="444")
        for camera in range(4):
            episode[f"steps/observation/image_{camera}"] = [data] * len(episode["steps/is_first"])

    write_bridge(tmp_path, lengths=(8, 8), edit=gradient)
    needs = requirements(window=3, cameras=CAMERAS, size=(32, 32))
    cropped = open_generated(tmp_path, needs=needs, crop=CropConfig(scale=(0.3, 0.6)), batch_size=8).batch(0)
    plain = open_generated(tmp_path, needs=needs, batch_size=8).batch(0)
    primary = cropped.observation.images["primary"]
    np.testing.assert_array_equal(primary[:, 0], primary[:, 1])
    assert len({picture.tobytes() for picture in primary[:, 0]}) == 8
    assert not same(cropped.observation.images["primary"], plain.observation.images["primary"])
    np.testing.assert_array_equal(cropped.observation.images["secondary"], plain.observation.images["secondary"])
    spread = np.ptp(primary[..., 0].astype(int), axis=(2, 3)) / 248
    assert spread.max() < 0.9


def test_languages_are_drawn_evenly_from_the_keys_that_are_given(tmp_path, monkeypatch):
    """With an exclusive upper bound, as published elsewhere, the last key would never be drawn."""
    import dataclasses

    from data_pipelines import source

    write_fractal(tmp_path, lengths=(30,))
    find = source.find_dataset
    languages = (
        "observation/natural_language_instruction",
        "observation/second",
        "observation/third",
        "observation/none",
    )

    def with_more(name, *standardization):
        dataset = find(name, *standardization)
        return dataclasses.replace(dataset, spec=dataclasses.replace(dataset.spec, languages=languages))

    from tests import rlds_episodes

    monkeypatch.setattr(source, "find_dataset", with_more)
    extra = {f"steps/{key}": rlds_episodes.TEXT for key in languages[1:]}
    monkeypatch.setattr(rlds_episodes, "FRACTAL", rlds_episodes.FRACTAL | extra)

    def edit(_, episode):
        for key, text in zip(languages, ("first", "second", "third", "")):
            episode[f"steps/{key}"] = [text] * 30

    write_fractal(tmp_path, lengths=(30,), edit=edit)
    pipeline = open_generated(tmp_path, mixture={"fractal20220817_data": 1.0}, batch_size=100)
    drawn = [text_of(tokens) for batch in read(pipeline, 0, 6) for tokens in batch.observation.instruction_tokens]
    counts = {text: drawn.count(text) for text in ("first", "second", "third")}
    assert sum(counts.values()) == 600
    assert all(abs(count - 200) < 3 * (600 * 2 / 9) ** 0.5 for count in counts.values()), counts


def test_an_episode_without_instruction_gives_no_tokens(tmp_path):
    def silent(_, episode):
        episode["steps/language_instruction"] = [""] * len(episode["steps/is_first"])

    write_bridge(tmp_path, edit=silent)
    assert not open_generated(tmp_path).batch(0).observation.instruction_mask.any()


def test_statistics_may_come_from_a_checkpoint(two_datasets):
    own = open_generated(two_datasets, needs=requirements(normalization="gaussian"))
    given = {"bridge_dataset": {**own.statistics["bridge_dataset"]}, "another": {}}
    given["bridge_dataset"]["action"] = {**given["bridge_dataset"]["action"], "std": [2.0] * 10}
    pipeline = open_generated(two_datasets, needs=requirements(normalization="gaussian"), statistics=given)
    std = np.array(own.statistics["bridge_dataset"]["action"]["std"])
    ours, theirs = own.batch(0).action, pipeline.batch(0).action
    np.testing.assert_allclose(theirs[..., :9] * 2, ours[..., :9] * std[:9], atol=1e-5)
    with pytest.raises(InputError, match=r"none for the dataset 'bridge_dataset'; it has \['other'\]"):
        open_generated(two_datasets, statistics={"other": {}})


def test_closing_stops_every_thread(two_datasets):
    pipeline = open_generated(two_datasets, num_threads=3)
    before = set(threading.enumerate())
    with pipeline.batches(0) as batches:
        next(batches)
    unread = pipeline.batches(0)
    unread.close()
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert set(threading.enumerate()) <= before


def test_a_policy_and_a_dataset_without_a_common_camera_are_refused(two_datasets):
    with pytest.raises(
        InputError, match=r"dataset fractal20220817_data: no camera of \['secondary'\]; it has \['primary'\]"
    ):
        open_generated(two_datasets, mixture=BOTH, needs=requirements(cameras=("secondary",)))


def test_an_action_space_that_a_dataset_cannot_map_into_is_refused_by_name(tmp_path, monkeypatch):
    from data_pipelines import datasets

    (tmp_path / "joints_only.py").write_text(
        "from data_pipelines.datasets import bridge_dataset\n"
        "import dataclasses\n"
        "SPEC = dataclasses.replace(bridge_dataset.SPEC, name='joints_only')\n"
        "def standardize(raw):\n"
        "    return {'gripper': raw['action'][:, 6]}\n"
    )
    monkeypatch.setattr(datasets, "__path__", [*datasets.__path__, str(tmp_path)])
    folder = write_bridge(tmp_path)
    renamed = tmp_path / "joints_only" / "1.0.0"
    renamed.parent.mkdir()
    folder.rename(renamed)
    info = renamed / "dataset_info.json"
    info.write_text(info.read_text().replace("bridge_dataset", "joints_only"))
    for shard in renamed.glob("bridge_dataset-*"):
        shard.rename(renamed / shard.name.replace("bridge_dataset", "joints_only"))
    with pytest.raises(InputError, match=r"dataset joints_only: .* action space 'relative_pose', which needs \['pose'"):
        open_generated(tmp_path, mixture={"joints_only": 1.0})


def test_a_batch_of_the_real_sample_holds_every_episode_whole(shared_data, tmp_path):
    from pipeline_setup import tokenize_bytes

    from data_pipelines.config import DataConfig, MixtureEntry
    from data_pipelines.pipeline import open_pipeline

    pipeline = open_pipeline(
        DataConfig(root=str(shared_data), mixture=(MixtureEntry(name="bridge_dataset"),)),
        requirements(window=12, horizon=12, normalization="gaussian", cameras=CAMERAS, size=(64, 64)),
        tokenize_bytes,
        seed=0,
        batch_size=25,
        cache=tmp_path,
        quarantine=tmp_path / "quarantine.jsonl",
    )
    (batch,) = read(pipeline, 0, 1)
    assert len(np.unique(batch.sample_ids[:, 1])) == 25  # windows longer than episodes: one each
    assert batch.observation.timestep_mask.sum() == 250
    assert batch.observation.images["primary"][batch.observation.timestep_mask].std() > 20
    assert np.isfinite(batch.action).all()
    assert np.abs(batch.action).max() < 20
    assert (pipeline.num_replaced, (tmp_path / "quarantine.jsonl").exists()) == (0, False)
