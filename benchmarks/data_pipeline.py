"""CPU milliseconds per picture of the data pipeline, as multiples of decoding alone, measured in one run.

    python -m benchmarks.data_pipeline [--json FILE] [--episodes N] [--repeats N]

The data are generated: Bridge's features, pictures of 256 x 256 (smooth shapes with noise, JPEG quality 90, about
18 kB, like the design study's). The floor decodes the same bytes with simplejpeg into one buffer, in one thread. CPU
time is that of the whole process, all threads, so that other load on the machine matters little; repeats interleave.
The mixture is of 25 datasets of equal weight, each of Bridge's features, a 25th of the episodes and its own shards.
"""

import argparse
import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image
from rich.console import Console
from rich.table import Table

from data_pipelines.action_spaces import relative_pose
from data_pipelines.config import CropConfig, DataConfig, MixtureEntry
from data_pipelines.index.shard_reader import read_range
from data_pipelines.pipeline import Pipeline, open_pipeline
from tests.rlds_episodes import write_bridge
from vla_jax.types import CameraRequirement, DataRequirements

SIZE, WINDOW, HORIZON, BATCH, STEPS = 256, 2, 4, 64, 38
DATASETS = 25
FRESH_PROCESS = """
import sys, time
start = time.perf_counter()
from pathlib import Path
from benchmarks.data_pipeline import SIZE, _open
imported = time.perf_counter()
with _open(Path(sys.argv[1]), SIZE, None).batches(0) as batches:
    next(batches)
print(imported - start, time.perf_counter() - imported)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options)
    table = Table("pipeline", "CPU-ms per picture", "times the floor", "pictures per CPU-second")
    for name, milliseconds in result["cpu_ms_per_image"].items():
        ratio = milliseconds / result["cpu_ms_per_image"]["floor: simplejpeg alone"]
        table.add_row(name, f"{milliseconds:.3f}", f"{ratio:.2f}", f"{1000 / milliseconds:.0f}")
    Console(width=110).print(table)
    print(json.dumps(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def measure(root: Path, options: argparse.Namespace) -> dict:
    write_bridge(root, lengths=(STEPS,) * options.episodes, size=(8, 8), shards=8, edit=_real_pictures())
    start = time.process_time()
    plain = _open(root, SIZE, None)
    opened = time.process_time() - start
    imports, first_batch = _first_batch_of_a_fresh_process(root)
    cases = {
        "no augmentation, 256 to 256": plain,
        "no augmentation, 256 to 224": _open(root, 224, None),
        "crop, 256 to 224": _open(root, 224, CropConfig()),
        "window of 12, horizon 12, 256 to 256": _open(root, SIZE, None, window=12, horizon=12, batch=16),
        "no augmentation, episode access": _open(root, SIZE, None, access="episode"),
        f"no augmentation, mixture of {DATASETS}": _mixed(root, plain, options.episodes),
    }
    costs: dict[str, list[float]] = {"floor: simplejpeg alone": [], **{name: [] for name in cases}}
    for repeat in range(options.repeats):
        costs["floor: simplejpeg alone"].append(_floor(plain))
        for name, pipeline in cases.items():
            costs[name].append(_cost(pipeline, 1 + repeat * options.batches, options.batches))
    index = plain.sources[0].index
    return {
        "cpu_ms_per_image": {name: statistics.median(values) for name, values in costs.items()},
        "all_repeats": costs,
        "jpeg_bytes": float(np.mean(index.column("steps/observation/image_0", "image")[:, 1])),
        "index_table_statistics_cpu_seconds": opened,
        "steps_indexed": index.num_steps,
        "seconds_to_first_batch": first_batch,
        "seconds_of_imports_before": imports,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _first_batch_of_a_fresh_process(root: Path) -> tuple[float, float]:
    """Seconds of imports, then from configuration to batch; index, table and statistics are there."""
    command = [sys.executable, "-c", FRESH_PROCESS, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imports, batch = map(float, done.stdout.split())
    return imports, batch


def _mixed(root: Path, plain: Pipeline, num_episodes: int) -> Pipeline:
    """The datasets are 25 of one name, which a configuration cannot say."""
    sources = []
    for number in range(DATASETS):
        folder = root / f"part{number}"
        lengths = (STEPS,) * max(1, num_episodes // DATASETS)
        write_bridge(folder, lengths=lengths, size=(8, 8), shards=1, edit=_real_pictures())
        sources += _open(folder, SIZE, None).sources
    sizes = tuple(len(source.anchors) for source in sources)
    mixture = dataclasses.replace(plain.mixture, sizes=sizes, weights=(1 / DATASETS,) * DATASETS)
    return dataclasses.replace(plain, mixture=mixture, assembler=dataclasses.replace(plain.assembler, sources=sources))


def _open(
    root: Path, size: int, crop: CropConfig | None, *, window=WINDOW, horizon=HORIZON, batch=BATCH, access="frame"
) -> Pipeline:
    data = DataConfig(root=str(root), mixture=(MixtureEntry(name="bridge_dataset"),), crop=crop, access=access)
    requirements = DataRequirements(
        action_space=relative_pose.action_space(horizon, "gaussian"),
        cameras=(CameraRequirement(slot="primary", height=size, width=size),),
        window=window,
        window_anchor="first",
        text_length=16,
    )

    def tokenize(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        return np.ones((len(texts), 16), np.int32), np.ones((len(texts), 16), bool)

    return open_pipeline(data, requirements, tokenize, seed=0, batch_size=batch, cache=root / "cache", quarantine=None)


def _cost(pipeline: Pipeline, first: int, number: int) -> float:
    """Prefetched batches that are never read are waited for, and counted."""
    pipeline = dataclasses.replace(pipeline, quarantine=type(pipeline.quarantine)(None, "train", 1.0))
    start = time.process_time()
    with pipeline.batches(first) as batches:
        for _ in range(number):
            next(batches)
    window = pipeline.assembler.requirements.window
    return 1000 * (time.process_time() - start) / (pipeline.quarantine.num_drawn * window)


def _floor(pipeline: Pipeline) -> float:
    index = pipeline.sources[0].index
    spans = index.column("steps/observation/image_0", "image")
    shards = np.repeat(index.episodes[:, 0], index.episodes[:, 4])
    chosen = np.random.default_rng(0).permutation(len(spans))[:2000]
    encoded = [read_range(index.shards[shards[row]], *map(int, spans[row])) for row in chosen]
    out = np.zeros((SIZE, SIZE, 3), np.uint8)
    start = time.process_time()
    for data in encoded:
        simplejpeg.decode_jpeg(data, "RGB", buffer=out)
    return 1000 * (time.process_time() - start) / len(encoded)


def _real_pictures():
    generator = np.random.default_rng(0)
    encoded = []
    for _ in range(64):
        shapes = Image.fromarray(generator.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        smooth = np.asarray(shapes.resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float64)
        noisy = np.clip(smooth + generator.normal(size=smooth.shape) * 5, 0, 255).astype(np.uint8)
        encoded.append(simplejpeg.encode_jpeg(noisy, quality=90, colorspace="RGB", colorsubsampling="420"))

    def edit(number, episode):
        episode["steps/observation/image_0"] = [encoded[(7 * number + step) % 64] for step in range(STEPS)]

    return edit


if __name__ == "__main__":
    main()
