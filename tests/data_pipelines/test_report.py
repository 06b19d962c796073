"""The report: what its page says, that it runs and fetches nothing, and how large it may become."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from data_pipelines.__main__ import main
from data_pipelines.action_spaces import relative_pose
from data_pipelines.discovery import find_dataset
from data_pipelines.index.dataset_directory import read_directory
from data_pipelines.index.sidecar import open_index
from data_pipelines.report import page
from data_pipelines.report.filmstrip import Camera, Curve, FilmMaker, Panel
from data_pipelines.report.histogram import NUM_BINS, histogram, whole_numbers
from data_pipelines.report.language import describe_language
from data_pipelines.report.plots import curves_svg
from data_pipelines.statistics import open_statistics
from data_pipelines.table import open_table
from tests.rlds_episodes import write_bridge

SCRIPT = "<script>document.title='planted'</script> \" onmouseover='x' &amp;"


class Page(HTMLParser):
    """Tags, attributes and texts of a page."""

    def __init__(self, file: Path):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data.strip())

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)

    @property
    def text(self) -> str:
        return " ".join(" ".join(filter(None, self.texts)).split())


def report(*arguments) -> int:
    return main(["report", *map(str, arguments)])


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> tuple[Path, Path]:
    """The page of a dataset with markup in its path and its instructions; and the dataset."""
    root = tmp_path_factory.mktemp("report")

    def plant(number, episode):
        episode["steps/language_instruction"] = [SCRIPT if number == 0 else f"lift {number}"] * len(
            episode["steps/language_instruction"]
        )

    folder = write_bridge(root / "<img src=x onerror=document.title=1>", edit=plant, size=(48, 48))
    out = root / "page.html"
    assert report(folder, "--out", out, "--cache", root / "cache", "--jobs", 1) == 0
    return out, folder


def test_markup_in_paths_and_instructions_is_text(hostile):
    out, folder = hostile
    found = Page(out)
    assert SCRIPT in " ".join(found.texts)
    assert str(folder) in found.text
    assert found.count("script") == 0
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]


def test_nothing_is_fetched(hostile):
    content = hostile[0].read_text(encoding="utf-8")
    found = Page(hostile[0])
    for _, attributes in found.tags:
        assert attributes.get("href", "#").startswith("#")
        assert attributes.get("src", "data:").startswith(
            "data:image/jpeg;base64,"[: len(attributes.get("src", "data:"))]
        )
        assert "srcset" not in attributes
    assert not re.search(r"https?://|url\(|@import|<link|<iframe|<object", content)
    policy = next(a["content"] for _, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_counts_are_held_against_the_listed_and_the_published_ones(hostile):
    text = Page(hostile[0]).text
    # split train: 2 shards, 3 episodes found, as listed; BridgeData V2 has 53192 of them
    assert re.search(r"train 2 3 3 ✓ 53 192 ≠ 21 ", text)
    assert "bridge_dataset-train.tfrecord-00001-of-00002 1 1 ✓ 4 " in text


def test_a_plot_for_every_dimension_and_a_picture_for_every_step(hostile):
    out, _ = hostile
    found, text = Page(out), Page(out).text
    space = relative_pose.action_space(1)
    for dimension in (*space.dimensions, *space.proprio):
        assert dimension.name in text
    labels = [a["aria-label"] for name, a in found.tags if name == "svg"]
    histograms = [label for label in labels if label.startswith("histogram of")]
    raw, grippers, lengths = 14, 3, 2
    assert len(histograms) == space.action_width + space.proprio_width + raw + grippers + lengths
    assert {"histogram of action[6] as stored", "histogram of commanded", "histogram of measured"} < set(histograms)
    assert sum(label.startswith("curves of") for label in labels) == 3 * 3
    steps = [min(8, length) for length in (10, 7, 4)]
    assert found.count("img") == 4 * steps[0] + 2 * sum(steps[1:])


def test_quantiles_are_those_of_the_statistics(hostile, tmp_path):
    out, folder = hostile
    directory, dataset = read_directory(folder), find_dataset("bridge_dataset")
    index = open_index(directory, "train", tmp_path)
    table = open_table(dataset, index, tmp_path)
    statistics = open_statistics(dataset, index, table, relative_pose.action_space(1), tmp_path).tree()
    text = Page(out).text
    for number, name in enumerate(("dx", "dy", "dz")):
        q01, q99 = (page.number(statistics["action"][q][number]) for q in ("q01", "q99"))
        assert re.search(rf"{name} metre \S+ \S+ q01 {re.escape(q01)} · q99 {re.escape(q99)}", text), name


def test_findings_of_verify_are_listed(hostile):
    text = Page(hostile[0]).text
    assert re.search(r"gripper_continuous 1 finding", text)
    assert "not verified" not in text


def test_epochs_of_a_published_mixture(two_datasets, tmp_path):
    folders = [two_datasets / "bridge_dataset/1.0.0", two_datasets / "fractal20220817_data/0.1.0"]
    options = ["--out", tmp_path / "page.html", "--cache", tmp_path / "cache", "--jobs", 1, "--no-verify"]
    assert report(*folders, *options, "--mixture", "bridge_rt_1", "--steps", 30, "--batch-size", 12) == 0
    text = Page(tmp_path / "page.html").text
    # 21 and 15 steps weigh by their size, so each is seen 30 * 12 / 36 times
    assert "bridge_dataset 1 21 58.3 % 210 10" in text
    assert "fractal20220817_data 1 15 41.7 % 150 10" in text
    assert "not verified" in text
    assert report(folders[0], *options, "--mixture", "bridge_rt_1") == 0
    text = Page(tmp_path / "page.html").text
    assert "1 of 2 datasets are not on this page." in text
    assert "fractal20220817_data 1 not here" in text


def test_a_recipe_gives_mixture_steps_and_action_space(two_datasets, tmp_path):
    (tmp_path / "recipe.py").write_text(
        "import types\n"
        "from data_pipelines.action_spaces import relative_pose\n"
        "from data_pipelines.config import DataConfig, MixtureEntry\n"
        "def get_config():\n"
        "    mixture = (MixtureEntry(name='bridge_dataset', weight=3.0), MixtureEntry(name='fractal20220817_data'))\n"
        "    return types.SimpleNamespace(action_space=relative_pose.action_space(3), num_steps=7, batch_size=6,\n"
        "                                 data=DataConfig(root='', mixture=mixture))\n"
    )
    folders = [two_datasets / "bridge_dataset/1.0.0", two_datasets / "fractal20220817_data/0.1.0"]
    options = ["--out", tmp_path / "page.html", "--cache", tmp_path / "cache", "--jobs", 1, "--no-verify"]
    assert report(*folders, *options, "--config", tmp_path / "recipe.py") == 0
    text = Page(tmp_path / "page.html").text
    assert "relative_pose , horizon 3" in text
    assert "bridge_dataset 3 21 75 % 32 1.5" in text


def test_a_damaged_shard_is_told_and_the_rest_shown(tmp_path, capsys):
    folder = write_bridge(tmp_path, splits=("train", "val"))
    shard = sorted(folder.glob("*-val.tfrecord-*"))[1]
    shard.write_bytes(shard.read_bytes()[:-40])
    assert report(folder, "--out", tmp_path / "page.html", "--cache", tmp_path / "cache", "--jobs", 1) == 0
    text = Page(tmp_path / "page.html").text
    assert "index of split val" in text
    assert "shard_truncated 1 finding" in text
    assert "val 2 ? 3 ≠" in text
    assert Page(tmp_path / "page.html").count("img")
    assert f"index of split val: {shard}" in capsys.readouterr().out
    assert report(folder, "--split", "val", "--out", tmp_path / "page.html", "--cache", tmp_path / "cache") == 0
    assert Page(tmp_path / "page.html").count("img") == 0


def test_a_dataset_without_a_file_is_shown_as_its_feature_tree_tells(tmp_path):
    folder = write_bridge(tmp_path)
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"name": "kitchen"}))
    for shard in folder.glob("*.tfrecord-*"):
        shard.rename(shard.with_name(shard.name.replace("bridge_dataset", "kitchen")))
    assert report(folder, "--out", tmp_path / "page.html", "--cache", tmp_path / "cache", "--jobs", 1) == 0
    found = Page(tmp_path / "page.html")
    assert "No file of data_pipelines/datasets has this name." in found.text
    assert "put object 0 in the pot" in found.text
    assert "observation/state[6]" in found.text
    assert found.count("img") == 4 * (8 + 7 + 4)


def test_numbers_that_are_not_finite_and_pictures_that_are_damaged_are_counted(tmp_path):
    def damage(number, episode):
        episode["steps/observation/state"][1, 2] = np.nan
        episode["steps/observation/image_1"][2] = b"\xff\xd8 no picture"

    folder = write_bridge(tmp_path, edit=damage)
    assert report(folder, "--out", tmp_path / "page.html", "--cache", tmp_path / "cache", "--jobs", 1) == 0
    text = Page(tmp_path / "page.html").text
    assert re.search(r"observation/state\[2\] \S+ \S+ q01 \S+ · q99 \S+ 3 not finite", text)
    assert "undecodable" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{root}/none", "--out", "{root}/x.html"], "no such dataset directory"),
        (["{folder}", "--out", "{root}/none/x.html"], "none is no folder that can be written"),
        (["{folder}", "{folder}", "--out", "{root}/x.html"], "['bridge_dataset'] are given twice"),
        (["{folder}", "--out", "{root}/x.html", "--split", "test"], "no split 'test'"),
        (["{folder}", "--out", "{root}/x.html", "--mixture", "soup"], "no mixture 'soup'"),
        (["{folder}", "--out", "{root}/x.html", "--mixture", "bridge", "--steps", "9"], "give both"),
        (["{folder}", "--out", "{root}/x.html", "--steps", "9", "--batch-size", "2"], "name it with --mixture"),
        (["{folder}", "--out", "{root}/x.html", "--config", "none.py"], "no file none.py"),
    ],
)
def test_bad_input_is_one_message_and_exit_2(two_datasets, tmp_path, capsys, arguments, message):
    folder = two_datasets / "bridge_dataset/1.0.0"
    arguments = [argument.format(root=tmp_path, folder=folder) for argument in arguments]
    assert report(*arguments, "--cache", tmp_path / "cache") == 2
    out, error = capsys.readouterr()
    assert message in error
    assert (out, error.count("\n"), list(tmp_path.iterdir())) == ("", 1, [])


def test_a_page_that_would_be_too_large_is_not_written(two_datasets, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(page, "MOST_BYTES", 20_000)
    folder = two_datasets / "bridge_dataset/1.0.0"
    assert report(folder, "--out", tmp_path / "page.html", "--cache", tmp_path / "cache", "--no-verify") == 2
    assert "without a picture, more than 20000; give fewer at a time" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("most_bytes", [300_000, 90_000, 65_000])
def test_films_take_the_room_that_is_left(two_datasets, tmp_path, monkeypatch, most_bytes):
    monkeypatch.setattr(page, "MOST_BYTES", most_bytes)
    folders = [two_datasets / "bridge_dataset/1.0.0", two_datasets / "fractal20220817_data/0.1.0"]
    options = ["--out", tmp_path / "page.html", "--cache", tmp_path / "cache", "--jobs", 1, "--no-verify"]
    assert report(*folders, *options) == 0
    assert (tmp_path / "page.html").stat().st_size <= most_bytes
    num_pictures = Page(tmp_path / "page.html").count("img")
    everything = (4 * 8 + 2 * 7 + 2 * 4) + (6 + 8)
    assert num_pictures == everything if most_bytes == 300_000 else num_pictures < everything


def test_many_shards_long_texts_and_noisy_pictures_make_a_small_page(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    picture = simplejpeg.encode_jpeg(noise, quality=90, colorspace="RGB")

    def fill(number, episode):
        for camera in range(4):
            episode[f"steps/observation/image_{camera}"] = [picture] * 8
        episode["steps/language_instruction"] = [f"{number} " + "long " * 5000] * 8

    folder = write_bridge(tmp_path, lengths=(8,) * 60, size=(120, 160), shards=60, edit=fill)
    options = ["--out", tmp_path / "page.html", "--cache", tmp_path / "cache", "--jobs", 1, "--no-verify"]
    assert report(folder, *options) == 0
    assert sum(file.stat().st_size for file in folder.iterdir()) > 20_000_000
    assert (tmp_path / "page.html").stat().st_size < 1_500_000
    found = Page(tmp_path / "page.html")
    assert "And 12 more" in found.text
    assert max(map(len, found.texts)) < 10_000  # the style sheet


@pytest.mark.parametrize("most_bytes", [400_000, 60_000, 12_000, 0])
def test_pictures_keep_to_their_bytes(two_datasets, tmp_path, most_bytes):
    index = open_index(read_directory(two_datasets / "bridge_dataset/1.0.0"), "train", tmp_path)
    cameras = tuple(Camera(f"image_{n}", f"steps/observation/image_{n}", is_used=n < 2) for n in range(4))
    films = FilmMaker(index, cameras, [], None).films(most_bytes)
    assert sum(film.num_bytes for film in films) <= most_bytes
    assert bool(films) == (most_bytes > 0)


def test_a_histogram_shows_the_bulk_and_counts_what_lies_beyond():
    values = np.concatenate([np.linspace(-1, 1, 998), [500.0, np.nan]])
    found = histogram("x", values)
    assert found is not None
    assert found.high < 4
    assert (found.largest, found.num_beyond, found.note) == (500.0, 1, "1 not finite")
    assert found.counts.sum() == 999
    assert found.counts[-1] >= 1
    constant = histogram("x", np.full(5, 3.0))
    assert constant is not None
    assert constant.is_constant
    assert constant.low < 3 < constant.high
    assert histogram("x", np.array([np.nan])) is None


def test_whole_numbers_get_a_bin_each_or_a_round_number_of_them():
    few = whole_numbers("n", np.array([4, 4, 6]))
    assert few.counts.tolist() == [2, 0, 1]
    many = whole_numbers("n", np.arange(100))
    assert len(many.counts) <= NUM_BINS
    assert many.counts.sum() == 100
    weighted = whole_numbers("n", np.array([1, 2]), np.array([10, 30]))
    assert (weighted.counts.tolist(), weighted.note) == ([10, 30], "median 2")


def test_instructions_are_counted_by_steps_over_all_language_keys():
    texts = ["", "a b", "c d e"]
    found = describe_language([np.array([1, 1, 2, 0]), np.array([0, 0, 1, 0])], texts)
    assert found.frequent == (("a b", 0.75), ("c d e", 0.25))
    assert (found.num_distinct, found.unlabeled) == (2, 0.25)
    assert found.words is not None
    assert found.words.counts.tolist() == [3, 1]


def test_no_spike_of_a_long_curve_is_lost_and_a_gap_stays_one():
    values = np.zeros(20_000)
    values[12_345] = 7.0
    panel = Panel("metre", (Curve("x", values),))
    highest = re.findall(r"[ML][\d.]+ ([\d.]+)", str(curves_svg(panel, (0, 19_999))))
    assert min(map(float, highest)) < 20  # near the top of 200
    gap = curves_svg(Panel("metre", (Curve("x", np.array([1.0, np.nan, 2.0])),)), (0, 1, 2))
    assert len(re.findall(r'class="line c0" d="(M[^"]*)"', str(gap))[0].split("M")) == 3


def test_curves_that_lie_far_apart_are_drawn_about_their_means():
    apart = Panel("1", (Curve("a", np.array([1.0, 1.01])), Curve("b", np.array([0.0, 0.02]))))
    assert apart.about_means
    assert apart.bounds == pytest.approx((-0.01, 0.01))
    assert not Panel("1", (Curve("a", np.array([0.0, 1.0])), Curve("b", np.array([0.5, 0.7])))).about_means
