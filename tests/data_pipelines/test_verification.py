"""`verify`: each planted fault raises its code and nothing else; clean datasets raise none; real ones the known six."""

import collections
import itertools
import json
import tracemalloc

import fsspec
import jsonschema
import numpy as np
import pytest

from data_pipelines.__main__ import main
from data_pipelines.demos.generation import DemonstrationConfig, generate
from data_pipelines.discovery import dataset_files, specs
from data_pipelines.index.dataset_directory import read_directory
from data_pipelines.index.tfrecord import Record
from data_pipelines.storage import locate
from data_pipelines.verification import records, verification
from data_pipelines.verification.check import all_checks
from data_pipelines.verification.checks.channel_order import _Palettes
from data_pipelines.verification.episode import Place
from data_pipelines.verification.finding import MOST_A_CODE, Finding, Findings
from data_pipelines.verification.pictures import PALETTE
from data_pipelines.verification.records import walk
from data_pipelines.verification.verification import verify
from tests.data_pipelines.verification_data import (
    ACTION,
    BRIDGE_CAMERAS,
    EVERY,
    FAULTS,
    Fault,
    at,
    encode,
    exchange,
    first_shard,
    flip,
    plant,
    put,
    real_exchanged,
    rewrite_shard,
    scene,
    second_record,
    write_clean,
)
from tests.oxe_episodes import write_dataset
from vla_jax.schemas import schema

CODES = schema("verify")["properties"]["findings"]["items"]["properties"]["code"]["enum"]
ALL_SPECS = [(file, spec) for file, module in dataset_files().items() for spec in specs(module)]
BRIDGE_SAMPLE = {
    "split_overlap",
    "last_flag_missing",
    "camera_flag_false",
    "image_black",
    "gripper_continuous",
    "first_action_zero",
}


def codes_of(folder, **options) -> dict[str, int]:
    return dict(verify(read_directory(folder), **options).findings.totals)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return write_clean(tmp_path_factory.mktemp("clean"))


def test_every_code_of_the_contract_has_a_check_a_severity_a_docstring_and_a_planted_fault():
    checks = all_checks()
    assert sorted(check.code for check in checks) == sorted(CODES)
    assert {fault.code for fault in FAULTS} == set(CODES)
    for check in checks:
        assert check.severity in ("error", "warning", "info")
        assert len(check.__doc__ or "") > 40


def test_a_clean_dataset_raises_none(clean):
    assert codes_of(clean) == {}
    assert codes_of(clean, all_images=True) == {}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.code} {fault.name}".strip())
def test_a_planted_fault_raises_its_code_and_nothing_else_and_says_where(tmp_path, monkeypatch, fault: Fault):
    report = verify(read_directory(plant(fault, tmp_path, monkeypatch)))
    assert dict(report.findings.totals) == {fault.code: fault.count}
    first = report.findings.of(fault.code)[0]
    assert (first.split, first.episode, first.step) == fault.place
    assert (first.shard is not None) == (fault.place[0] is not None or fault.name == "unlisted shard")


@pytest.mark.parametrize("embodiment", ["gantry", "arm"])
def test_demonstrations_raise_none(tmp_path, gl_backend, embodiment):
    suites = ("reach", "object", "goal")
    config = DemonstrationConfig(
        environment="tabletop", embodiment=embodiment, suites=suites, episodes=12, seed=1, image_size=16
    )
    generate(config, tmp_path, jobs=1)
    assert codes_of(tmp_path / config.dataset / "1.0.0") == {}


@pytest.mark.parametrize("all_images", [False, True])
def test_the_real_bridge_sample_raises_exactly_the_known_six(shared_data, all_images):
    codes = codes_of(shared_data / "bridge_dataset" / "1.0.0", all_images=all_images)
    assert codes.keys() == BRIDGE_SAMPLE
    assert codes["split_overlap"] == 25
    assert codes["image_black"] == codes["last_flag_missing"] == codes["first_action_zero"] == 50


@pytest.mark.parametrize(("file", "spec"), ALL_SPECS, ids=lambda value: getattr(value, "name", ""))
def test_true_trees_of_all_datasets_pass_what_rests_on_the_tree(tmp_path, file, spec):
    """Their numbers are random: flags, grippers and published ranges are not judged here."""
    codes = codes_of(write_dataset(tmp_path, file, spec))
    random = {"last_flag_missing", "camera_flag_false", "gripper_continuous", "action_out_of_range"}
    assert codes.keys() <= random


def test_an_openness_outside_its_range_is_a_wrong_convention(tmp_path):
    spec = next(spec for _, spec in ALL_SPECS if spec.name == "tabletop_gantry")
    folder = write_dataset(tmp_path, "tabletop_gantry", spec)

    def double(episode):
        episode["steps/action"] = (episode["steps/action"].reshape(-1, 5) * [1, 1, 1, 1, 2]).astype(np.float32)

    rewrite_shard(next(folder.glob("*.tfrecord-*")), {1}, double)
    findings = verify(read_directory(folder)).findings.of("gripper_convention")
    assert [(finding.episode, finding.step) for finding in findings] == [(1, 0)]
    assert "target_gripper is 2" in findings[0].message


# --- damage is stepped over ----------------------------------------------------------------------


def test_several_damages_are_all_reported_and_what_is_left_is_read(tmp_path):
    folder = write_clean(tmp_path, at((9,), put(ACTION, (0, 0), np.nan)))
    flip(lambda data: second_record(data) + 3)(folder)
    path = first_shard(folder)
    path.write_bytes(path.read_bytes()[:-7])
    (folder / "bridge_dataset-train.tfrecord-00001-of-00002").unlink()
    report = verify(read_directory(folder))
    assert dict(report.findings.totals) == {
        "shard_corrupt": 1,
        "shard_truncated": 1,
        "shard_missing": 1,
        "action_nonfinite": 1,
    }
    assert report.num_episodes == 2 + 4


@pytest.mark.parametrize("searched", [64, 1000, records.SEARCHED_BYTES])
def test_a_broken_length_loses_one_record_however_the_search_is_cut(tmp_path, monkeypatch, searched):
    monkeypatch.setattr(records, "SEARCHED_BYTES", searched)
    folder = write_clean(tmp_path)
    whole = [found.data for found in walk(read_directory(folder).splits["train"][0])]
    flip(lambda data: second_record(data) + 2)(folder)
    found = list(walk(read_directory(folder).splits["train"][0]))
    assert [record.data for record in found if isinstance(record, Record)] == [whole[0], *whole[2:]]
    assert not isinstance(found[1], Record)


def test_a_broken_length_of_the_last_record_ends_the_walk(tmp_path):
    folder = write_clean(tmp_path)
    path = first_shard(folder)
    data = path.read_bytes()
    length = second_record(data)
    path.write_bytes(data[:2] + b"\xff" + data[3:length])
    assert [type(found).__name__ for found in walk(read_directory(folder).splits["train"][0])] == ["Damage"]


# --- pictures ------------------------------------------------------------------------------------


def long_episode(change=None):
    """Episode 0 of 60 steps, so that most pictures are outside the sample."""

    def edit(number, episode):
        if number:
            return
        for key in [key for key in episode if key.startswith("steps/")]:
            rows = np.arange(60) % len(episode[key])
            given = episode[key]
            episode[key] = given[rows] if isinstance(given, np.ndarray) else [given[row] for row in rows]
        for flag, step in (("is_first", 0), ("is_last", 59), ("is_terminal", 59)):
            episode[f"steps/{flag}"] = np.arange(60) == step
        if change is not None:
            change(episode)

    return edit


def test_a_cut_and_a_black_picture_outside_the_sample_are_found(tmp_path):
    pictures = [encode(scene(0, 0, 0))[:-30], encode(np.zeros((32, 32, 3), np.uint8))]
    change = long_episode(put(BRIDGE_CAMERAS[0], slice(20, 22), pictures))
    report = verify(read_directory(write_clean(tmp_path, change)))
    assert dict(report.findings.totals) == {"image_undecodable": 1, "image_black": 1}
    assert [finding.step for finding in report.findings] in ([20, 21], [21, 20])


def test_all_images_finds_what_the_sample_cannot(tmp_path):
    """A picture whose size and end are right and whose middle is not."""
    good = encode(scene(0, 0, 0))
    broken = good[:-60] + b"\xff\xc4\x00\x04" * 10 + good[-60:]
    folder = write_clean(tmp_path, long_episode(put(BRIDGE_CAMERAS[0], 21, broken)))
    assert codes_of(folder) == {}
    assert codes_of(folder, all_images=True) == {"image_undecodable": 1}


@pytest.mark.parametrize("place", [0, 7, 12])
def test_one_exchanged_episode_of_the_real_sample_is_found_and_no_other(shared_data, tmp_path, place):
    """In train; its copy in val is as it was."""
    findings = verify(read_directory(real_exchanged(shared_data, tmp_path, {place}))).findings
    assert findings.totals["image_channels_swapped"] == 3
    assert {(f.split, f.episode) for f in findings.of("image_channels_swapped")} == {("train", place)}


def test_a_third_of_the_real_sample_exchanged_is_found_and_no_other(shared_data, tmp_path):
    exchanged = set(range(0, 25, 3))
    findings = verify(read_directory(real_exchanged(shared_data, tmp_path, exchanged))).findings
    assert {(f.split, f.episode) for f in findings.of("image_channels_swapped")} == {("train", n) for n in exchanged}


def test_all_of_the_real_sample_exchanged_is_found(shared_data, tmp_path):
    folder = real_exchanged(shared_data, tmp_path, set(range(25)), splits=("train", "val"))
    findings = verify(read_directory(folder)).findings.of("image_channels_swapped")
    assert [finding.episode for finding in findings] == [None] * 3


def test_palettes_of_many_episodes_take_little_room_and_the_exchanged_ones_are_found():
    """120,000 of 100 shards; as numbers of 8 bytes they would take 60 MB, and as much again in every step."""
    generator, exchanged = np.random.default_rng(0), {5, 700, 100_000}
    usual = generator.dirichlet(np.full(63, 0.5)).reshape(PALETTE)
    tracemalloc.start()
    palettes = _Palettes()
    for shard in range(100):
        more, place = _Palettes(), Place("train", str(shard), 1200 * shard)
        for number in range(1200 * shard, 1200 * (shard + 1)):
            palette = usual + number % 7 / 1000
            palette = palette / palette.sum()
            more.add(place, number, palette[:, ::-1] if number in exchanged else palette)
        palettes.merge(more)
    _, turned = palettes.exchanged()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6
    found = list(itertools.compress(palettes.episodes(), turned))
    assert {number for _, number in found} == exchanged
    assert all(place.first_episode <= number < place.first_episode + 1200 for place, number in found)


def test_help_says_what_every_code_means(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert not [code for code in CODES if f"\n{code} (" not in out]


# --- the command ---------------------------------------------------------------------------------


def run(folder, *options) -> int:
    return main(["verify", str(folder), "--jobs", "1", *map(str, options)])


def test_the_command_is_silent_about_a_clean_dataset_and_exits_0(clean, tmp_path, capsys):
    assert run(clean, "--json", tmp_path / "v.json") == 0
    tree = json.loads((tmp_path / "v.json").read_text())
    assert tree == {"dataset": "bridge_dataset 1.0.0", "findings": []}
    out, error = capsys.readouterr()
    assert "12 episodes, 120 steps, 0 findings" in out
    assert "action_out_of_range is not checked" in out
    assert error == ""


def test_findings_exit_3_are_grouped_and_written_as_the_contract_says(tmp_path, capsys):
    folder = write_clean(tmp_path, at(EVERY, put("steps/is_last", 9, False)))
    assert run(folder, "--json", tmp_path / "v.json") == 3
    tree = json.loads((tmp_path / "v.json").read_text())
    jsonschema.validate(tree, schema("verify"))
    assert collections.Counter(finding["code"] for finding in tree["findings"]) == {"last_flag_missing": 12}
    assert tree["findings"][0]["shard"] == first_shard(folder).name
    out = capsys.readouterr().out
    assert out.count("last_flag_missing") == 1
    assert " 12 " in out
    assert "train episode 0 step 9" in out


def test_damage_behind_a_url_is_stepped_over_too(tmp_path):
    folder = write_clean(tmp_path)
    flip(lambda data: second_record(data) + 2)(folder)
    (folder / "bridge_dataset-train.tfrecord-00001-of-00002").unlink()
    store = fsspec.filesystem("memory")
    for path in folder.iterdir():
        store.pipe(f"/{tmp_path.name}/1.0.0/{path.name}", path.read_bytes())
    report = verify(read_directory(locate(f"memory://{tmp_path.name}/1.0.0")), jobs=2)
    assert dict(report.findings.totals) == {"shard_corrupt": 1, "shard_missing": 1}
    assert report.num_episodes == 3 + 4


def test_several_processes_find_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "SMALL_BYTES", 0)
    folder = write_clean(tmp_path, at((1, 5, 9), exchange(BRIDGE_CAMERAS[:1])))
    directory = read_directory(folder)
    assert verify(directory, jobs=3).findings.tree() == verify(directory, jobs=1).findings.tree()


def test_more_findings_than_are_kept_are_counted():
    findings, others = Findings(), Findings()
    one = Finding(code="image_black", severity="warning", message="m")
    findings.extend([one] * 900)
    others.extend([one] * 2000)
    findings.merge(others)
    tree = findings.tree()
    assert findings.totals["image_black"] == len(findings) == 2900
    assert len(tree) == MOST_A_CODE + 1
    assert tree[-1]["message"] == "2900 findings of this code; the other 1900 are not listed"
    jsonschema.validate({"dataset": "d", "findings": tree}, schema("verify"))


def test_a_dataset_that_nobody_knows_is_checked_for_what_needs_no_spec(tmp_path, capsys):
    folder = write_clean(tmp_path, at((1,), put(ACTION, (1, 1), np.nan)))
    for path in folder.iterdir():
        path.rename(path.with_name(path.name.replace("bridge_dataset", "my_robot")))
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("bridge_dataset", "my_robot"))
    assert run(folder, "--json", tmp_path / "v.json") == 3
    assert [finding["code"] for finding in json.loads((tmp_path / "v.json").read_text())["findings"]] == [
        "action_nonfinite"
    ]
    out = capsys.readouterr().out
    assert "no file of datasets/ has the name 'my_robot'" in out
    assert "bridge_dataset" in out


def test_another_bridge_is_named_and_the_way_to_the_right_one(tmp_path):
    """OXE's bridge/0.1.0 under BridgeData V2's name."""
    spec = next(spec for _, spec in ALL_SPECS if spec.name == "bridge")
    folder = write_dataset(tmp_path, "bridge", spec)
    info = folder / "dataset_info.json"
    tree = json.loads(info.read_text())
    tree["name"] = "bridge_dataset"
    info.write_text(json.dumps(tree))
    for path in folder.glob("bridge-*"):
        path.rename(path.with_name(path.name.replace("bridge-", "bridge_dataset-")))
    findings = verify(read_directory(folder)).findings
    assert findings.codes()[0] == "version_mismatch"
    assert not {"camera_missing", "language_missing"} & set(findings.codes())
    messages = " ".join(finding.message for finding in findings.of("version_mismatch"))
    assert "says version 0.1.0" in messages
    assert "the features are those of bridge" in messages
    assert "bridge_orig" in messages


def test_no_version_is_another_one_where_none_was_published(tmp_path):
    spec = next(spec for _, spec in ALL_SPECS if spec.name == "tdroid_flip_pot_upright")
    folder = write_dataset(tmp_path, "tdroid_carrot_in_bowl", spec)
    info = folder / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"version": "1.0.0"}))
    assert "version_mismatch" not in verify(read_directory(folder)).findings.codes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["none"], "no such dataset directory"), (["DATA", "--json", "none/v.json"], "no folder that can be written")],
)
def test_bad_input_exits_2_with_one_message(clean, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["verify", *(str(clean) if argument == "DATA" else argument for argument in arguments)]) == 2
    out, error = capsys.readouterr()
    assert message in error
    assert (out, error.count("\n")) == ("", 1)
    assert not list(tmp_path.iterdir())
