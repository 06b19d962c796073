"""Bad records are replaced, listed once, counted; a resume replaces the same; too many stop the run."""

import collections
import json

import jax
import jsonschema
import numpy as np
import pytest
from pipeline_setup import BOTH, open_generated, requirements, tokenize_bytes

from data_pipelines.config import DataConfig
from data_pipelines.episodes import open_episodes
from data_pipelines.quarantine import FEWEST_SAMPLES
from tests.rlds_episodes import write_bridge, write_fractal
from vla_jax.schemas import schema
from vla_jax.types import InputError

NO_LIMIT = {"max_bad_share": 1.0}


def truncated_picture(number, episode):
    if number == 1:
        pictures = episode["steps/observation/image_0"]
        pictures[3] = pictures[3][:-200]


def empty_picture(number, episode):
    if number == 1:
        episode["steps/observation/image_0"][3] = b""


def text_for_a_picture(number, episode):
    if number == 1:
        episode["steps/observation/image_0"][3] = b"\x89PNG\r\n\x1a\nnot really"


def several_truncated_pictures(_, episode):
    pictures = episode["steps/observation/image_0"]
    pictures[::3] = [picture[:-200] for picture in pictures[::3]]


def nan_action(number, episode):
    if number == 1:
        episode["steps/action"][3, 0] = np.nan


def infinite_state(number, episode):
    if number == 1:
        episode["steps/observation/state"][3, 4] = np.inf


def text_that_is_not_utf8(number, episode):
    if number == 1:
        episode["steps/language_instruction"][2] = b"caf\xe9"


BAD = {
    truncated_picture: "camera primary",
    empty_picture: "camera primary: 0 bytes that are neither JPEG nor PNG",
    text_for_a_picture: "camera primary: an undecodable PNG",
    nan_action: "not finite",
    infinite_state: "not finite",
    text_that_is_not_utf8: "not UTF-8",
}


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def read(pipeline, number, start=0):
    with pipeline.batches(start) as batches:
        return [next(batches) for _ in range(number)]


@pytest.mark.parametrize("edit", BAD, ids=lambda edit: edit.__name__)
def test_bad_record_is_replaced_listed_once_and_counted(tmp_path, edit):
    write_bridge(tmp_path, edit=edit)
    quarantine = tmp_path / "quarantine.jsonl"
    needs = requirements(window=5, cameras=("secondary", "primary"))
    pipeline = open_generated(tmp_path, needs=needs, quarantine=quarantine, **NO_LIMIT)
    batches = read(pipeline, 12)
    (line,) = lines_of(quarantine)
    jsonschema.validate(line, schema("quarantine_line"))
    step = 2 if edit is text_that_is_not_utf8 else 3
    assert (line["dataset"], line["split"], line["episode"], line["step"]) == ("bridge_dataset", "train", 1, step)
    assert BAD[edit] in line["reason"]
    assert (tmp_path / "bridge_dataset" / "1.0.0" / line["file"]).is_file()
    assert 0 < pipeline.num_replaced < 48
    for batch in batches:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(batch) if leaf.dtype == np.float32)
        if edit is not text_that_is_not_utf8:  # only the sampled step's text is read
            assert not (batch.sample_ids[:, 1] == 1).any()  # every window of 5 of its 7 steps holds step 3
        for pictures in batch.observation.images.values():
            seen = pictures.max(axis=(2, 3, 4)) > 0
            np.testing.assert_array_equal(seen, batch.observation.timestep_mask)  # nothing is left of a bad window


def test_the_quarantined_picture_is_where_the_line_says(tmp_path):
    folder = write_bridge(tmp_path, edit=truncated_picture)
    open_generated(tmp_path, quarantine=tmp_path / "q.jsonl", **NO_LIMIT).batch(0)
    pipeline = open_generated(tmp_path, quarantine=tmp_path / "q.jsonl", **NO_LIMIT)
    read(pipeline, 4)
    (line,) = lines_of(tmp_path / "q.jsonl")
    data = (folder / line["file"]).read_bytes()
    assert data[line["offset"] : line["offset"] + 2] == b"\xff\xd8"


def test_replacements_come_from_the_same_dataset_and_leave_every_other_sample_alone(tmp_path):
    write_fractal(tmp_path / "good")
    write_fractal(tmp_path / "bad")
    write_bridge(tmp_path / "good")
    write_bridge(tmp_path / "bad", edit=truncated_picture)
    good = open_generated(tmp_path / "good", mixture=BOTH, batch_size=8)
    bad = open_generated(tmp_path / "bad", mixture=BOTH, batch_size=8, **NO_LIMIT)
    changed = 0
    for step in range(8):
        ours, expected = bad.batch(step), good.batch(step)
        hit = (ours.sample_ids != expected.sample_ids).any(1)
        changed += hit.sum()
        np.testing.assert_array_equal(ours.sample_ids[:, 0], expected.sample_ids[:, 0])
        for a, b in zip(jax.tree.leaves(ours.observation.images), jax.tree.leaves(expected.observation.images)):
            np.testing.assert_array_equal(a[~hit], b[~hit])
    assert changed == bad.num_replaced > 0


def test_resume_replaces_the_same_samples_and_lists_nothing_again(tmp_path):
    write_bridge(tmp_path, edit=truncated_picture)
    arguments = {"quarantine": tmp_path / "q.jsonl", "needs": requirements(window=2), **NO_LIMIT}
    whole = read(open_generated(tmp_path, **arguments), 10)
    listed = (tmp_path / "q.jsonl").read_bytes()
    (tmp_path / "q.jsonl").write_bytes(listed + b'{"torn": ')
    resumed = open_generated(tmp_path, **arguments)
    for a, b in zip(read(resumed, 6, start=4), whole[4:], strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    assert (tmp_path / "q.jsonl").read_bytes() == listed


def test_sample_ids_know_the_replacements_after_a_batch_was_read_and_after_a_resume(tmp_path):
    write_bridge(tmp_path, edit=truncated_picture)
    arguments = {"quarantine": tmp_path / "q.jsonl", **NO_LIMIT}
    pipeline = open_generated(tmp_path, **arguments)
    batches = read(pipeline, 8)
    resumed = open_generated(tmp_path, **arguments)
    for step, batch in enumerate(batches):
        np.testing.assert_array_equal(pipeline.sample_ids(step), batch.sample_ids)
        np.testing.assert_array_equal(resumed.sample_ids(step), batch.sample_ids)


def test_numbers_that_are_not_finite_are_known_without_reading_a_picture(tmp_path):
    write_bridge(tmp_path, edit=nan_action)
    pipeline = open_generated(tmp_path, **NO_LIMIT)
    planned = [pipeline.sample_ids(step) for step in range(8)]
    for ids, batch in zip(planned, read(pipeline, 8)):
        np.testing.assert_array_equal(ids, batch.sample_ids)


def test_a_picture_cut_after_indexing_is_a_bad_record(tmp_path):
    folder = write_bridge(tmp_path, shards=1)
    pipeline = open_generated(tmp_path, **NO_LIMIT)
    shard = next(folder.glob("*.tfrecord-*"))
    with shard.open("r+b") as stream:
        stream.truncate(shard.stat().st_size * 2 // 3)
    read(pipeline, 10)
    assert pipeline.num_replaced > 0


def test_more_bad_samples_than_allowed_stop_the_run(tmp_path):
    write_bridge(tmp_path, edit=truncated_picture)
    limit = {"max_bad_share": 0.003, "quarantine": tmp_path / "q.jsonl", "batch_size": 1}
    message = r"of \d+ samples had to be replaced, more than data.max_bad_share=0.003"
    pipeline = open_generated(tmp_path, **limit)
    with pytest.raises(InputError, match=message):
        collections.deque(map(pipeline.batch, range(200)), maxlen=0)
    assert pipeline.num_replaced == int(0.003 * FEWEST_SAMPLES) + 1
    with pytest.raises(InputError, match=message):  # also from the threads that read ahead
        read(open_generated(tmp_path, **limit), 200)


def test_a_run_that_is_preempted_often_reaches_the_limit_too(tmp_path, caplog):
    caplog.set_level("INFO")
    quarantine = tmp_path / "q.jsonl"
    write_bridge(tmp_path, edit=several_truncated_pictures, lengths=(20, 20, 20))
    arguments = {"max_bad_share": 0.004, "quarantine": quarantine, "batch_size": 1, "needs": requirements(window=1)}
    counts = []

    def read_one(start):
        pipeline = open_generated(tmp_path, **arguments)
        pipeline.quarantine.resume(start, start)
        pipeline.batch(start)
        counts.append(pipeline.num_replaced)

    with pytest.raises(InputError, match=r"5 of \d+ samples had to be replaced"):
        collections.deque(map(read_one, range(300)), maxlen=0)  # each a process that is preempted after one step
    assert max(counts) == 1
    assert "bad records are listed" in caplog.text


def test_samples_that_are_drawn_again_after_a_resume_count_once(tmp_path):
    quarantine = tmp_path / "q.jsonl"
    write_bridge(tmp_path, edit=several_truncated_pictures, lengths=(20, 20, 20))
    arguments = {"needs": requirements(window=1), "quarantine": quarantine, "batch_size": 1}
    for _ in range(2):
        pipeline = open_generated(tmp_path, **arguments)
        read(pipeline, 20)
        assert pipeline.quarantine.num_replaced_before == 0
    listed = [line["sample_index"] for line in lines_of(quarantine)]
    pipeline = open_generated(tmp_path, **arguments)
    read(pipeline, 1, 10)
    assert pipeline.quarantine.num_drawn_before == 10
    assert pipeline.quarantine.num_replaced_before == len({sample for sample in listed if sample < 10}) > 0


def test_a_share_of_zero_tolerates_none(tmp_path):
    write_bridge(tmp_path, edit=nan_action)
    pipeline = open_generated(tmp_path, max_bad_share=0.0, batch_size=1)
    with pytest.raises(InputError, match=r"1 of \d+ samples had to be replaced"):
        collections.deque(map(pipeline.batch, range(40)), maxlen=0)


def test_a_dataset_with_nothing_but_bad_pictures_stops_at_once(tmp_path):
    def all_bad(_, episode):
        episode["steps/observation/image_0"] = [b"nothing"] * len(episode["steps/is_first"])

    write_bridge(tmp_path, edit=all_bad)
    with pytest.raises(InputError, match="100 windows in a row were bad"):
        open_generated(tmp_path, **NO_LIMIT).batch(0)


def test_a_split_without_a_finite_target_is_refused(tmp_path):
    def all_nan(_, episode):
        episode["steps/action"][:] = np.nan

    write_bridge(tmp_path, edit=all_nan)
    with pytest.raises(InputError, match="not one step has a valid, finite target"):
        open_generated(tmp_path)


def test_statistics_leave_numbers_out_that_are_not_finite_and_say_so(tmp_path, caplog):
    write_bridge(tmp_path, edit=infinite_state)
    statistics = open_generated(tmp_path).statistics["bridge_dataset"]
    assert np.isfinite(statistics["action"]["mean"]).all()
    assert np.isfinite(statistics["proprio"]["max"]).all()
    assert "of 21 steps are not finite and left out" in caplog.text


def test_a_file_that_is_no_quarantine_is_refused(tmp_path):
    write_bridge(tmp_path)
    (tmp_path / "q.jsonl").write_text('{"some": "thing"}\n')
    with pytest.raises(InputError, match=r"q.jsonl: not a quarantine file"):
        open_generated(tmp_path, quarantine=tmp_path / "q.jsonl")


def test_evaluation_leaves_bad_steps_out_counted_and_logged(tmp_path, caplog):
    folder = write_bridge(tmp_path, edit=truncated_picture)
    needs = requirements(window=1)
    statistics = open_generated(tmp_path, needs=needs).statistics
    data = DataConfig(root=str(tmp_path), cache=str(tmp_path / "cache"))
    episodes = open_episodes(folder, data, needs, tokenize_bytes, statistics=statistics, batch_size=6)
    ids = np.concatenate([steps.ids for steps in episodes.batches()]).tolist()
    assert len(ids) == 20
    assert [1, 3] not in ids
    assert episodes.num_skipped == 1
    assert "episode 1 step 3 left out" in caplog.text
