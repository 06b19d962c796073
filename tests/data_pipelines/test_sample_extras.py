"""What a policy may ask for beside its window: goals, frame pairs, boxes, a second picture, coarse chunks.

And the promise that all of it depends on (seed, step) alone.
"""

import dataclasses
import json

import jax
import jsonschema
import numpy as np
import pytest
import simplejpeg
from pipeline_setup import open_generated, requirements, text_of

from data_pipelines.action_spaces import unified
from data_pipelines.boxes import Boxes, boxes_folder, write_boxes
from data_pipelines.config import CropConfig, RotationConfig, TaskConfig
from data_pipelines.transforms.chunk import Chunk
from tests.rlds_episodes import colour_of, write_bridge
from vla_jax.schemas import schema
from vla_jax.types import BoxRequirement, CameraRequirement, CoarseChunk, InputError

LENGTHS = (10, 7, 4)
EVERYTHING = {
    "crop": CropConfig(scale=(0.5, 0.9)),
    "rotation": RotationConfig(degrees=10),
    "mirror_share": 0.5,
    "task": TaskConfig(keep_goal=0.5),
}


def needs(**changes):
    return dataclasses.replace(requirements(window=2, anchor="last", size=(32, 32)), **changes)


def twins(slot="primary", small=16, large=32):
    return (
        CameraRequirement(slot=slot, height=small, width=small),
        CameraRequirement(slot=f"{slot}_high", height=large, width=large, source_slot=slot),
    )


def everything():
    return needs(
        cameras=twins(),
        goals=("primary",),
        pair_offset=2,
        coarse=CoarseChunk(horizon=3, stride=2),
        boxes=BoxRequirement(count=4, missing="grid"),
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("extras")
    write_bridge(root, lengths=LENGTHS)
    return root


def step_of(picture, episode):
    """Which step of the episode a flat picture shows."""
    shown = picture.reshape(-1, 3).mean(0)
    distances = [np.abs(shown - colour_of(episode, step, 0)).max() for step in range(LENGTHS[episode])]
    assert min(distances) < 5
    return int(np.argmin(distances))


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


# ---- goals and wordings


def test_goals_are_pictures_of_the_same_episode_from_the_seen_step_on(data):
    batch = open_generated(data, needs=needs(goals=("primary",)), batch_size=64).batch(0)
    ahead = []
    for picture, (_, episode, step) in zip(batch.observation.goal_images["primary"], batch.sample_ids):
        goal = step_of(picture, episode)
        assert step <= goal < LENGTHS[episode]
        ahead.append(goal - step)
    assert batch.observation.goal_masks["primary"].all()
    assert len(set(ahead)) > 3
    assert batch.observation.instruction_mask.any(1).all()


def test_goals_may_be_near(data):
    near = open_generated(data, needs=needs(goals=("primary",)), batch_size=64, task=TaskConfig(furthest_goal=1))
    batch = near.batch(0)
    steps = [step_of(p, e) - s for p, (_, e, s) in zip(batch.observation.goal_images["primary"], batch.sample_ids)]
    assert set(steps) == {0, 1}


def supervised_ahead(batch, which="action_mask", stride=1):
    """Of each sample with a goal: how far that lies ahead, how far the last supervised action of the seen step."""
    found = []
    for row, (_, episode, step) in enumerate(batch.sample_ids):
        if batch.observation.goal_masks["primary"][row]:
            goal = step_of(batch.observation.goal_images["primary"][row], episode) - step
            entries = np.flatnonzero(getattr(batch, which)[row, -1].any(-1)) * stride
            found.append((goal, entries.tolist(), LENGTHS[episode] - 1 - step))
    return found


@pytest.mark.parametrize("octo_compat", [False, True])
def test_actions_from_the_goal_on_are_not_supervised_but_for_the_next(tmp_path, octo_compat):
    write_bridge(tmp_path, lengths=LENGTHS)
    asked = needs(goals=("primary",), action_space=longer(4), octo_compat=octo_compat)
    found = supervised_ahead(open_generated(tmp_path, needs=asked, batch_size=96).batch(0))
    assert {0, 1, 2, 3} <= {goal for goal, _, _ in found}
    for goal, entries, left in found:
        late = 2 if octo_compat else 0
        end = max(goal + late, 1)
        assert entries == [h for h in range(4) if left and h < end and h < left + octo_compat], (goal, left)


def test_coarse_chunks_end_at_the_goal_too_and_an_instruction_alone_leaves_all(data):
    asked = needs(goals=("primary",), coarse=CoarseChunk(horizon=3, stride=2))
    batch = open_generated(data, needs=asked, batch_size=96, task=TaskConfig(keep_goal=0.5)).batch(0)
    for goal, entries, left in supervised_ahead(batch, "coarse_action_mask", stride=2):
        assert entries == [h for h in (0, 2, 4) if h < max(goal, 1) and h < left]
    told = ~batch.observation.goal_masks["primary"]
    whole = open_generated(data, needs=dataclasses.replace(asked, goals=()), batch_size=96).batch(0)
    np.testing.assert_array_equal(whole.sample_ids, batch.sample_ids)
    np.testing.assert_array_equal(batch.action_mask[told], whole.action_mask[told])
    assert told.any()


def test_one_telling_is_left_out_of_each_sample(data):
    told = open_generated(data, needs=needs(goals=("primary",)), batch_size=64, task=TaskConfig(keep_goal=0.5))
    seen = told.batch(0).observation
    has_goal, has_text = seen.goal_masks["primary"], seen.instruction_mask.any(1)
    assert (has_goal ^ has_text).all()
    assert 16 < has_goal.sum() < 48
    assert (seen.goal_images["primary"][~has_goal] == 0).all()


def test_a_policy_that_asks_for_no_goal_is_given_none(data):
    batch = open_generated(data, needs=needs(), task=TaskConfig(keep_goal=1.0)).batch(0)
    assert batch.observation.goal_images is batch.observation.boxes is batch.later_images is batch.coarse_action is None
    assert batch.observation.instruction_mask.any(1).all()


def test_other_wordings_come_from_the_file(data, tmp_path):
    wordings = {f"put object {n} in the pot": [f"move {n}", f"drop {n} there"] for n in range(2)}
    (tmp_path / "wordings.json").write_text(json.dumps(wordings))
    task = TaskConfig(paraphrases=str(tmp_path / "wordings.json"), paraphrase_share=1.0)
    batch = open_generated(data, needs=needs(), batch_size=64, task=task).batch(0)
    texts = {text_of(tokens) for tokens in batch.observation.instruction_tokens}
    assert texts == {"move 0", "drop 0 there", "move 1", "drop 1 there", "put object 2 in the pot"}


def test_a_file_of_wordings_that_is_not_there_is_named_at_the_start(data):
    with pytest.raises(InputError, match=r"nowhere.json: no readable JSON"):
        open_generated(data, needs=needs(), task=TaskConfig(paraphrases="nowhere.json"))


@pytest.mark.parametrize(("key", "config"), [("crop", CropConfig), ("rotation", RotationConfig)])
def test_cameras_that_no_dataset_has_are_refused_and_those_that_the_policy_lacks_are_not(data, key, config):
    with pytest.raises(InputError, match=rf"data.{key}.slots: no dataset has a camera 'primry'; .*'primary'.*'wrist'"):
        open_generated(data, needs=needs(), **{key: config(slots=("primary", "primry"))})
    open_generated(data, needs=needs(), **{key: config(slots=("primary", "wrist"))})


def test_wordings_and_boxes_are_bound_by_their_digests_beside_the_statistics(scenes, tmp_path):
    sidecar(scenes)
    file = tmp_path / "w.json"
    asked = needs(boxes=BoxRequirement())

    def files(wordings, layout=None):
        file.write_text(json.dumps(wordings, indent=layout))
        pipeline = open_generated(scenes, needs=asked, task=TaskConfig(paraphrases=str(file)))
        return pipeline.statistics["bridge_dataset"]["files"]

    before = files({"a": ["b", "c"]})
    words, boxes = f"{file} (data.task.paraphrases)", "bridge_dataset/1.0.0/train/boxes-primary"
    assert before.keys() == {words, boxes}
    bound = open_generated(scenes, needs=asked).statistics
    assert "files" in bound["bridge_dataset"]
    jsonschema.validate(bound, schema("dataset_statistics"))
    assert files({"a": ["b", "c"]}, layout=2) == before
    changed = files({"a": ["c", "b"]})
    assert (changed[words] != before[words], changed[boxes]) == (True, before[boxes])
    sidecar(scenes, target=1)
    assert files({"a": ["b", "c"]})[boxes] != before[boxes]
    assert "files" not in open_generated(scenes, needs=needs()).statistics["bridge_dataset"]
    sidecar(scenes)


# ---- frame pairs and coarse chunks


def test_pairs_show_each_window_step_k_steps_later(data):
    batch = open_generated(data, needs=needs(pair_offset=2), batch_size=64).batch(0)
    mask, seen = batch.later_masks["primary"], batch.observation.timestep_mask
    for row, (_, episode, step) in enumerate(batch.sample_ids):
        for w, now in enumerate((step - 1, step)):
            assert mask[row, w] == (now >= 0 and now + 2 < LENGTHS[episode])
            if mask[row, w]:
                assert step_of(batch.later_images["primary"][row, w], episode) == now + 2
    assert mask.any()
    assert (seen & ~mask).any()


def test_coarse_chunks_are_every_second_target(data):
    coarse = CoarseChunk(horizon=3, stride=2)
    pipeline = open_generated(data, needs=needs(coarse=coarse), batch_size=32)
    batch, long = pipeline.batch(0), open_generated(data, needs=needs(action_space=longer(5)), batch_size=32).batch(0)
    np.testing.assert_array_equal(batch.sample_ids, long.sample_ids)
    np.testing.assert_array_equal(batch.coarse_action_mask, long.action_mask[:, :, ::2])
    real = batch.coarse_action_mask
    np.testing.assert_allclose(batch.coarse_action[real], long.action[:, :, ::2][real], atol=1e-6)
    assert (~real & batch.observation.timestep_mask[..., None, None]).any()


def longer(horizon):
    return dataclasses.replace(requirements().action_space, horizon=horizon)


def test_octos_mask_is_a_switch_of_the_policy(data):
    ours, octos = (
        open_generated(data, needs=needs(octo_compat=flag), batch_size=64).batch(0) for flag in (False, True)
    )
    equal(ours.action, octos.action)
    assert (octos.action_mask & ~ours.action_mask).any()
    assert not (ours.action_mask & ~octos.action_mask).any()


# ---- the second picture and boxes


def scene(number, episode):
    """Pictures with a white rectangle and a gradient, so that a cut can be told."""
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[..., 1], picture[..., 2] = np.arange(64) * 4, np.arange(64)[:, None] * 4
    picture[20:40, 24:36, 0] = 255
    data = simplejpeg.encode_jpeg(picture, quality=98, colorspace="RGB", colorsubsampling="444")
    episode["steps/observation/image_0"] = [data] * len(episode["steps/is_first"])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    write_bridge(root, lengths=(8, 8), edit=scene, size=(64, 64))
    return root


def test_the_second_picture_shows_the_same_part(scenes):
    changes = {name: EVERYTHING[name] for name in ("crop", "rotation", "mirror_share")}
    seen = open_generated(scenes, needs=needs(cameras=twins(large=64, small=32)), batch_size=16, **changes).batch(0)
    small = seen.observation.images["primary"].astype(int)
    large = seen.observation.images["primary_high"].astype(int)
    halved = large.reshape(16, 2, 32, 2, 32, 2, 3).mean(axis=(3, 5))
    assert np.abs(halved - small).mean() < 4
    assert np.abs(np.roll(halved, 1, axis=0) - small).mean() > 10, "samples are cut alike: the test tells nothing"
    equal(seen.observation.image_masks["primary"], seen.observation.image_masks["primary_high"])


def sidecar(root, target=0):
    source = open_generated(root, needs=needs()).sources[0]
    boxes = np.zeros((source.index.num_steps, 2, 4), np.float32)
    boxes[:, 0], boxes[:, 1] = (24 / 64, 20 / 64, 36 / 64, 40 / 64), (0, 0, 0.05, 0.05)
    steps = np.full(source.index.num_steps, target, np.int32)
    given = Boxes(boxes, np.ones(boxes.shape[:2], bool), steps)
    write_boxes(boxes_folder(source.index, "primary", root / "cache"), source.index, given)
    return source


def test_boxes_move_with_the_picture(scenes):
    sidecar(scenes)
    changes = {"crop": CropConfig(scale=(0.5, 0.9)), "mirror_share": 0.5}
    pipeline = open_generated(scenes, needs=needs(boxes=BoxRequirement(count=3)), batch_size=24, **changes)
    batch = pipeline.batch(0)
    seen, masks = batch.observation.boxes, batch.observation.box_masks
    assert seen.shape == (24, 2, 3, 4)
    assert not masks[..., 1:].any(), "a sliver in the corner, and padding"
    assert not masks[~batch.observation.timestep_mask].any()
    np.testing.assert_array_equal(batch.target_box, np.where(masks[..., 0], 0, -1))
    for picture, box in zip(batch.observation.images["primary"][:, 1], seen[:, 1, 0]):
        y, x = np.nonzero(picture[..., 0] > 127)
        hull = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) / 32
        np.testing.assert_allclose(box, hull, atol=1.6 / 32)
    assert np.ptp(seen[:, 1, 0, 0]) > 0.1


def test_boxes_of_other_data_or_shape_and_missing_ones_are_refused(scenes, data):
    asked = needs(boxes=BoxRequirement())
    with pytest.raises(InputError, match=r"boxes-primary: the policy needs boxes .*missing=grid"):
        open_generated(data, needs=asked)
    source = sidecar(scenes)
    folder = boxes_folder(source.index, "primary", scenes / "cache")
    stored = json.loads((folder / "boxes.json").read_text())
    (folder / "boxes.json").write_text(json.dumps(stored | {"index": "0" * 64}))
    with pytest.raises(InputError, match="made for other data"):
        open_generated(scenes, needs=asked)
    (folder / "boxes.json").write_text(json.dumps(stored))
    np.save(folder / "mask.npy", np.ones((3, 2), bool))
    with pytest.raises(InputError, match=r"mask bool \(3, 2\)"):
        open_generated(scenes, needs=asked)
    (folder / "mask.npy").write_bytes(b"nothing")
    with pytest.raises(InputError, match="damaged"):
        open_generated(scenes, needs=asked)
    sidecar(scenes)


def test_requests_that_do_not_fit_are_refused():
    for changes, message in (
        ({"goals": ("wrist",)}, "goals of"),
        ({"boxes": BoxRequirement(slot="wrist")}, "boxes of 'wrist'"),
        ({"pair_offset": 0}, "pair_offset=0"),
    ):
        with pytest.raises(InputError, match=message):
            needs(**changes)
    with pytest.raises(InputError, match="stride=0"):
        CoarseChunk(horizon=1, stride=0)


# ---- no-ops and the unified vector


def test_windows_that_begin_with_a_no_op_are_not_sampled_and_counted(tmp_path, caplog):
    def idle(_, episode):
        episode["steps/action"][2:5] = episode["steps/action"][2]
        episode["steps/action"][2:5, :6] = 0

    write_bridge(tmp_path, lengths=LENGTHS, edit=idle)
    pipeline = open_generated(tmp_path, needs=needs(action_space=unified.action_space(2)), no_op_threshold=1e-4)
    steps = {step for _, _, step in np.concatenate([pipeline.sample_ids(step) for step in range(12)])}
    every = open_generated(tmp_path, needs=needs(action_space=unified.action_space(2)))
    assert steps & {3, 4} == set()
    assert {3, 4} <= {step for _, _, step in np.concatenate([every.sample_ids(step) for step in range(12)])}
    assert any("windows begin with a no-op: not sampled" in record.getMessage() for record in caplog.records)


def test_a_dataset_of_no_ops_alone_is_refused(tmp_path):
    write_bridge(tmp_path, lengths=(4,), edit=lambda _, episode: episode["steps/action"].fill(0))
    with pytest.raises(InputError, match="every step is a no-op"):
        open_generated(tmp_path, needs=needs(action_space=unified.action_space(2)), no_op_threshold=1e-4)


def test_the_unified_vector_of_a_dataset_is_masked_where_the_robot_has_nothing(data):
    batch = open_generated(data, needs=needs(action_space=unified.action_space(2, normalization="gaussian"))).batch(0)
    used = batch.action_mask.any(axis=(0, 1, 2))
    assert used[:7].all()
    assert not used[7:].any()
    assert np.isfinite(batch.action).all()
    np.testing.assert_array_equal(batch.observation.proprio[0, -1, 32:], used)


# ---- a function of (seed, step) alone


def test_a_batch_with_everything_is_the_same_whatever_was_read_before(data):
    def opened():
        return open_generated(data, needs=everything(), batch_size=6, num_threads=2, **EVERYTHING)

    pipeline = opened()
    with pipeline.batches(0) as batches:
        in_order = [next(batches) for _ in range(4)]
    with pipeline.batches(2) as batches:
        equal(next(batches), in_order[2])
    fresh = opened()
    equal(fresh.batch(3), in_order[3])
    equal(fresh.batch(1), in_order[1])
    halves = [fresh.batch(3, slice(0, 3)), fresh.batch(3, slice(3, 6))]
    jax.tree.map(
        lambda whole, *parts: np.testing.assert_array_equal(np.concatenate(parts), whole), in_order[3], *halves
    )
    other = open_generated(data, needs=everything(), batch_size=6, seed=6, **EVERYTHING).batch(3)
    assert (other.observation.images["primary"] != in_order[3].observation.images["primary"]).any()


def test_samples_are_numbered_in_the_order_of_the_run_and_vary_by_number(data):
    pipeline = open_generated(data, needs=everything(), batch_size=6, **EVERYTHING)
    batch = pipeline.batch(5, slice(2, 6))
    assert batch.sample_index.dtype == np.uint32
    assert batch.sample_index.tolist() == [32, 33, 34, 35]
    twice = open_generated(data, needs=everything(), batch_size=12, **EVERYTHING).batch(2)
    equal(jax.tree.map(lambda leaf: leaf[8:], twice), batch)


def test_a_sample_whose_goal_is_damaged_is_replaced_and_known_as_such(tmp_path):
    def damage(number, episode):
        if number == 0:
            episode["steps/observation/image_0"][-1] = b"\xff\xd8nothing"

    write_bridge(tmp_path, lengths=(9, 9), edit=damage)
    asked = needs(goals=("primary",), window_anchor="first")
    pipeline = open_generated(
        tmp_path, needs=asked, batch_size=64, quarantine=tmp_path / "bad.jsonl", max_bad_share=1.0
    )
    planned, batch = pipeline.sample_ids(0), pipeline.batch(0)
    assert pipeline.num_replaced > 1
    assert (planned != batch.sample_ids).any()
    np.testing.assert_array_equal(pipeline.sample_ids(0), batch.sample_ids)
    assert batch.observation.goal_masks["primary"].all()
    assert batch.observation.goal_images["primary"].any(axis=(1, 2, 3)).all()


def test_chunks_far_ahead_do_not_rest_on_numbers_that_are_not_finite(tmp_path):
    def damage(number, episode):
        if number == 0:
            episode["steps/observation/state"][8, 0] = np.nan

    write_bridge(tmp_path, lengths=(10, 10), edit=damage)
    asked = needs(coarse=CoarseChunk(horizon=3, stride=3))
    batch = open_generated(tmp_path, needs=asked, batch_size=64, max_bad_share=1.0).batch(0)
    assert np.isfinite(batch.coarse_action).all()
    assert (batch.sample_ids[batch.sample_ids[:, 1] == 0][:, 2] < 2).all()
    assert Chunk(3, 3)(np.array([1]), np.array([9]))[0].max() == 7
