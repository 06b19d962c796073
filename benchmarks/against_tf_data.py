"""CPU time a picture: our pipeline against a tf.data pipeline doing the same work.

    python -m benchmarks.against_tf_data [--tensorflow PYTHON] [--json FILE] [--episodes N] [--batches N] [--repeats N]

JPEG pictures of 256 x 256 and 18 kB, decoded, not resized; windows of 2, horizon 4, batches of 64. tf.data's part is as
Octo's and OpenVLA's loaders do it: records read and parsed by tensorflow_datasets, pictures left encoded; windows and
chunks of actions by gathers on each trajectory; flattened, shuffled (a buffer of 5,000 windows), decoded in parallel,
batched, prefetched. It neither normalises nor makes relative poses or language tokens: less work than ours. Each is a
process of its own, alternated; CPU time of the process and its children (user and system), between two batches after a
warm-up. PYTHON is of an environment with requirements.txt and requirements-dlimp.txt; by default the one that
`make test-all` made.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.data_pipeline import STEPS, _open, _real_pictures
from tests.rlds_episodes import write_bridge

ROOT = Path(__file__).resolve().parent.parent
TENSORFLOW = ROOT / "build" / "environments" / "tensorflow" / "bin" / "python"
CLOCK = """
import os, sys
from pathlib import Path
root, number, warm_up = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

def draw(batches):
    pictures, start = 0, None
    for drawn, batch in enumerate(batches):
        if drawn == warm_up:
            pictures, start = 0, sum(os.times()[:4])
        elif drawn > warm_up:
            pictures += pictures_of(batch)
        if drawn == warm_up + number:
            print(1000 * (sum(os.times()[:4]) - start) / pictures)
            return
"""
OURS = (
    CLOCK
    + """
from benchmarks.data_pipeline import SIZE, _open

def pictures_of(batch):
    pictures = batch.observation.images["primary"]
    return pictures.shape[0] * pictures.shape[1]

with _open(root, SIZE, None).batches(0) as batches:
    draw(batches)
"""
)
THEIRS = (
    CLOCK
    + """
import tensorflow as tf
import tensorflow_datasets as tfds

WINDOW, HORIZON, BATCH, BUFFER = 2, 4, 64, 5000

def window(trajectory):
    steps = trajectory["steps"]
    length = tf.shape(steps["action"])[0]
    wanted = tf.range(length)[:, None] + tf.range(1 - WINDOW, 1)
    rows = tf.maximum(wanted, 0)
    ahead = rows[:, :, None] + tf.range(HORIZON)
    return {
        "picture": tf.gather(steps["observation"]["image_0"], rows),
        "proprio": tf.gather(steps["observation"]["state"], rows),
        "mask": wanted >= 0,
        "action": tf.gather(steps["action"], tf.minimum(ahead, length - 1)),
        "action_mask": ahead < length,
        "language": steps["language_instruction"],
    }

def decode(sample):
    jpeg = lambda data: tf.ensure_shape(tf.io.decode_jpeg(data, channels=3, dct_method=METHOD), (256, 256, 3))
    return sample | {"picture": tf.stack([jpeg(sample["picture"][place]) for place in range(WINDOW)])}

def pictures_of(batch):
    return batch["picture"].shape[0] * batch["picture"].shape[1]

METHOD = sys.argv[4]
builder = tfds.builder_from_directory(str(root / "bridge_dataset" / "1.0.0"))
trajectories = builder.as_dataset(
    split="train", shuffle_files=True, decoders={"steps": tfds.decode.SkipDecoding()},
    read_config=tfds.ReadConfig(skip_prefetch=True),
)
samples = trajectories.repeat().map(window, tf.data.AUTOTUNE).flat_map(tf.data.Dataset.from_tensor_slices)
batches = samples.shuffle(BUFFER).map(decode, tf.data.AUTOTUNE).batch(BATCH).prefetch(2)
draw(batches.as_numpy_iterator())
"""
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tensorflow", type=Path, default=TENSORFLOW)
    parser.add_argument("--episodes", type=int, default=150)
    parser.add_argument("--batches", type=int, default=80)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not options.tensorflow.is_file():
        sys.exit(f"{options.tensorflow}: no such Python; `make test-all` makes it, or give --tensorflow")
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options)
    table = Table("pipeline", "CPU-ms a picture", "ours is times it", "all repeats")
    ours = statistics.median(result["ours"])
    for name, costs in result.items():
        middle = statistics.median(costs)
        table.add_row(name, f"{middle:.3f}", f"{ours / middle:.2f}", " ".join(f"{cost:.3f}" for cost in costs))
    Console(width=120).print(table)
    print(json.dumps(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def measure(root: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    write_bridge(root, lengths=(STEPS,) * options.episodes, size=(8, 8), shards=8, edit=_real_pictures())
    _open(root, 256, None)  # the index is found by the process that is measured
    processes = {
        "ours": (sys.executable, OURS, ""),
        "tf.data, accurate DCT": (options.tensorflow, THEIRS, "INTEGER_ACCURATE"),
        "tf.data, its default DCT": (options.tensorflow, THEIRS, ""),
    }
    costs: dict[str, list[float]] = {name: [] for name in processes}
    for _ in range(options.repeats):
        for name, (python, code, method) in processes.items():
            costs[name].append(_cost(python, code, root, options.batches, method))
    return costs


def _cost(python: Path | str, code: str, root: Path, batches: int, method: str) -> float:
    """Milliseconds of CPU a picture. The warm-up outlasts the filling of tf.data's buffer, which is the first batch."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [str(python), "-c", code, str(root), str(batches), "20", method]
    done = subprocess.run(command, capture_output=True, text=True, env=environment | {"CUDA_VISIBLE_DEVICES": ""})
    if done.returncode:
        sys.exit(f"{python}: {done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
