"""Memory of the data path alone: a process that opens the pipeline and draws batches, without a model.

    python -m benchmarks.memory [--json FILE] [--episodes N] [--batches N] [--slope-batches N]

Generated data with Bridge's features, two cameras of 256 x 256 pixels: 15,200 steps, 600 MB. A fresh process builds
index, table and statistics (with its worker processes), then draws batches of 64 windows of 2; another one finds them
there. A third draws small batches (2 windows of 2) for long: the slope is a line's through the memory after the first
tenth, of all pages and of its own, that no file backs. Memory is the proportional set size (PSS) of the process and all
its children, read 10 times a second.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.data_pipeline import STEPS, _real_pictures
from tests.rlds_episodes import write_bridge

CAMERAS = ("primary", "secondary")
BATCH, SMALL_BATCH, WINDOW = 64, 2, 2
DRAW = """
import sys, time
from pathlib import Path
from benchmarks.data_pipeline import SIZE, _open
batch, number = int(sys.argv[2]), int(sys.argv[3])
print("imported", flush=True)
time.sleep(0.5)  # to be looked at
pipeline = _open(Path(sys.argv[1]), SIZE, None, batch=batch)
print("opened", flush=True)
time.sleep(0.5)
with pipeline.batches(0) as batches:
    for drawn in range(number):
        next(batches)
        if drawn % 10 == 9:
            print(drawn + 1, flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--slope-batches", type=int, default=22_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options)
    table = Table("process", "PSS, MB, after imports", "open", "largest till then", "largest", *SLOPES)
    for name, row in result["processes"].items():
        slopes = (f"{row[key]:.3f}" for key in KEYS[4:] if name == SMALL)
        table.add_row(name, *(f"{row[key]:.0f}" for key in KEYS[:4]), *slopes)
    Console(width=130).print(table)
    print(json.dumps(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def measure(root: Path, options: argparse.Namespace) -> dict:
    subprocess.run([sys.executable, "-c", WRITE, str(root), str(options.episodes)], check=True)
    num_bytes = sum(path.stat().st_size for path in root.rglob("*.tfrecord*"))
    return {
        "dataset_megabytes": num_bytes / 1e6,
        "steps": options.episodes * STEPS,
        "processes": {
            "builds index and statistics, then draws": watch(root, BATCH, options.batches),
            "finds them, then draws": watch(root, BATCH, options.batches),
            SMALL: watch(root, SMALL_BATCH, options.slope_batches),
        },
    }


WRITE = """
import sys
from pathlib import Path
from benchmarks.memory import write
write(Path(sys.argv[1]), int(sys.argv[2]))
"""
SMALL = "small batches for long"
KEYS = ("imported", "opened", "peak_before_opened", "peak", "per_thousand_batches", "own_per_thousand_batches")
SLOPES = ("MB a 1,000 batches", "own pages")


def write(root: Path, episodes: int) -> None:
    first_camera = _real_pictures()

    def edit(number: int, episode: dict) -> None:
        first_camera(number, episode)
        episode["steps/observation/image_1"] = episode["steps/observation/image_0"][::-1]

    write_bridge(root, lengths=(STEPS,) * episodes, size=(8, 8), shards=8, edit=edit)


def watch(root: Path, batch: int, number: int) -> dict[str, float]:
    """In megabytes."""
    command = [sys.executable, "-c", DRAW, str(root), str(batch), str(number)]
    said, samples = root / "said.txt", list[tuple[str, float, float]]()
    with said.open("w") as output, subprocess.Popen(command, stdout=output) as process:
        while process.poll() is None:
            samples.append(((said.read_text().split() or ["started"])[-1], *tree_pss(process.pid)))
            time.sleep(0.1)
    assert process.returncode == 0
    drawn = [(int(mark), *pss) for mark, *pss in samples if mark.isdigit() and number // 10 <= int(mark) < number]
    batches, whole, own = zip(*drawn)
    of = {mark: [pss for last, pss, _ in samples if last == mark] for mark in ("imported", "opened")}
    return {
        "imported": of["imported"][0],
        "opened": of["opened"][0],
        "peak_before_opened": max(of["imported"]),
        "peak": max(pss for _, pss, _ in samples),
        "per_thousand_batches": 1000 * float(np.polyfit(batches, whole, 1)[0]),
        "own_per_thousand_batches": 1000 * float(np.polyfit(batches, own, 1)[0]),
    }


def tree_pss(process: int) -> tuple[float, float]:
    """Megabytes of a process and its children; of these, the pages that no file backs.

    Those of libraries are shared with whatever else runs on the machine: when that ends, their share grows.
    """
    whole, own, waiting = 0, 0, [process]
    while waiting:
        folder = Path(f"/proc/{waiting.pop()}")
        try:
            rollup = dict(line.split()[:2] for line in (folder / "smaps_rollup").read_text().splitlines()[1:])
            whole, own = whole + int(rollup["Pss:"]), own + int(rollup["Pss_Anon:"])
            for task in (folder / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except (OSError, KeyError):
            continue  # it has ended
    return whole * 1024 / 1e6, own * 1024 / 1e6


if __name__ == "__main__":
    main()
