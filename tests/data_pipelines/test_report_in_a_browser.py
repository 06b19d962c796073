"""The report's page as a browser shows it: a copy with a probe, in headless Chromium.

The probe opens what is folded and writes down where every plot and picture lies. Axes: y x pixels.
"""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.__main__ import main
from tests.rlds_episodes import colour_of, write_bridge

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1100, 8000
SCRIPT = "<script>document.title = 'planted'</script><img src=x onerror=\"document.title = 'planted'\">"
PROBE = """<script>
addEventListener("load", () => {
  const places = [...document.querySelectorAll("svg, img")].map(element => {
    const box = element.getBoundingClientRect();
    const kind = element.closest(".plot") ? "histogram" : element.tagName == "IMG" ? "picture" : "curves";
    const label = element.getAttribute("aria-label") || element.alt;
    return {kind, label, left: box.left, top: box.top + scrollY, width: box.width, height: box.height,
            natural: element.naturalWidth ?? 1};
  });
  const told = {places, title: document.title, height: document.documentElement.scrollHeight,
                wide: document.documentElement.scrollWidth,
                background: getComputedStyle(document.body).backgroundColor};
  const note = document.createElement("pre");
  note.id = "told";
  note.textContent = JSON.stringify(told);
  note.hidden = true;
  document.body.append(note);
});
</script>"""
IN_A_FRAME = """<body style="margin: 0"><iframe width="390" height="3000" srcdoc="{page}"></iframe><script>
addEventListener("load", () => {{
  const note = document.createElement("pre");
  note.id = "told";
  note.textContent = document.querySelector("iframe").contentDocument.getElementById("told").textContent;
  document.body.append(note);
}});
</script></body>"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"SKIPPED: none of {BROWSERS} is on PATH: the page was not looked at in a browser")
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Of generated data, with markup in an instruction, and with the probe in place of the page's security policy."""
    root = tmp_path_factory.mktemp("page")

    def plant(number, episode):
        episode["steps/language_instruction"] = [f"{SCRIPT} {number}"] * len(episode["steps/language_instruction"])

    folder = write_bridge(root, size=(64, 64), edit=plant)
    out = root / "page.html"
    assert main(["report", str(folder), "--out", str(out), "--cache", str(root / "cache"), "--jobs", "1"]) == 0
    content = re.sub(r"<meta http-equiv[^>]*>", "", out.read_text(encoding="utf-8"))
    content = re.sub(r"<details(?! open)", "<details open", content)
    probed = root / "probed.html"
    probed.write_text(content.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    return probed


def run(browser: str, folder: Path, *arguments: str) -> str:
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--window-size={WIDTH},{HEIGHT}", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def told(browser: str, folder: Path, file: Path, *arguments: str) -> dict:
    """What the probe wrote down."""
    dom = run(browser, folder, *arguments, "--dump-dom", file.as_uri())
    found = re.search(r'<pre id="told"[^>]*>(.*?)</pre>', dom, re.DOTALL)
    assert found, dom[-2000:]
    return json.loads(html.unescape(found[1]))


def test_plots_and_pictures_are_there_and_planted_scripts_did_not_run(browser, page, tmp_path):
    probe = told(browser, tmp_path, page)
    assert probe["title"] == "bridge_dataset"
    assert probe["wide"] <= WIDTH
    assert probe["height"] <= HEIGHT  # all of it is on the screenshot
    places = {kind: [p for p in probe["places"] if p["kind"] == kind] for kind in ("histogram", "curves", "picture")}
    # 10 actions, 10 of proprio, 14 as stored, 3 grippers, lengths, words, shards; 3 panels of 3 episodes
    assert [len(places[kind]) for kind in places] == [40, 9, 4 * 8 + 2 * 7 + 2 * 4]
    run(browser, tmp_path, f"--screenshot={tmp_path / 'page.png'}", page.as_uri())
    picture = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
    for place in (place for kind in places for place in places[kind]):
        region = pixels(picture, place)
        assert min(region.shape[:2]) > 30, place
        background = np.median(region.reshape(-1, 3), axis=0) if place["kind"] == "curves" else region[1, 1]
        if place["kind"] != "picture":
            assert (np.abs(region - background).max(-1) > 40).mean() > 0.002, f"blank: {place}"
    for place in places["picture"][:16]:
        assert place["natural"] > 30
        camera, step = re.fullmatch(r"(\w+), step (\d+)", place["label"]).groups()
        expected = colour_of(0, int(step), ["primary", "secondary"].index(camera))
        middle = pixels(picture, place)[10:-10, 10:-10].reshape(-1, 3).mean(0)
        assert np.abs(middle - expected).max() < 12, place


def test_a_blank_plot_would_be_noticed(browser, page, tmp_path):
    """The wrong twin: without its shapes a plot's region is blank."""
    blank = tmp_path / "blank.html"
    blank.write_text(re.sub(r'<path class="(bar|mark)"[^>]*/>', "", page.read_text(encoding="utf-8")), encoding="utf-8")
    place = next(p for p in told(browser, tmp_path, blank)["places"] if p["kind"] == "histogram")
    run(browser, tmp_path, f"--screenshot={tmp_path / 'page.png'}", blank.as_uri())
    region = pixels(np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int), place)
    assert (np.abs(region - region[1, 1]).max(-1) > 40).mean() < 0.002


def test_it_is_dark_where_asked_and_fits_a_phone(browser, page, tmp_path):
    framed = tmp_path / "framed.html"
    framed.write_text(IN_A_FRAME.format(page=html.escape(page.read_text(encoding="utf-8"))), encoding="utf-8")
    phone = told(browser, tmp_path, framed, "--force-dark-mode")
    assert phone["wide"] <= 390
    assert max(map(int, re.findall(r"\d+", phone["background"])[:3])) < 60
    histograms = [place for place in phone["places"] if place["kind"] == "histogram"]
    assert all(100 < place["width"] < 390 and place["left"] + place["width"] <= 390 for place in histograms)


def pixels(picture: np.ndarray, place: dict) -> np.ndarray:
    left, top = round(place["left"]), round(place["top"])
    return picture[top : top + round(place["height"]) - 1, left : left + round(place["width"])]
