"""Import and export of pretrained weights against torch's load and save of the same bytes, and the memory they take.

    python -m benchmarks.weights [--gigabytes N] [--repeats N] [--family NAME] [--json FILE]

One bf16 shard of layers as wide as Llama-7B's, made on the spot. Each lap runs torch (`safetensors.torch`: load_file,
save_file), `python -m vla_jax import` and `export` after one another, each in a process of its own that begins with
an empty queue of pages to be written; seconds are the work's, without starting Python. Import and export write their
digests too, which torch does not. Memory is RssAnon of /proc/PID/status, 50 times a second: what no file backs.
Bars: each of import and export <= 2.5 x torch, which loads and saves the same bytes, and <= 1.2 x the largest tensor +
0.5 GB of anonymous memory. Both together, against one load and save, are printed as well.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from vla_jax import pretrained
from vla_jax.convert.disk_parameters import same_bits
from vla_jax.convert.rules import disk_tensors, find_family
from vla_jax.convert.safetensors_folder import SafetensorsFolder
from vla_jax.convert.save import save

WIDTHS = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
# Of each family: config.json of a model with so many layers.
CONFIGS = {
    "clip": lambda layers: {
        "model_type": "clip",
        "projection_dim": 4096,
        "vision_config": {**WIDTHS, "num_hidden_layers": layers, "patch_size": 14},
        "text_config": {**WIDTHS, "num_hidden_layers": layers},
    },
    "llama": lambda layers: {
        **WIDTHS,
        "model_type": "llama",
        "num_hidden_layers": layers,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
}
TORCH = """
from safetensors.torch import load_file, save_file
def work():
    save_file(load_file(f"{source}/model.safetensors"), out, metadata={"format": "pt"})
"""
COMMAND = """
import contextlib, importlib, pkgutil, sys
from vla_jax import commands
from vla_jax.__main__ import main
for module in pkgutil.iter_modules(commands.__path__):
    importlib.import_module(f"{commands.__name__}.{module.name}")
def work():
    with contextlib.redirect_stdout(sys.stderr):
        assert main([*arguments]) == 0
"""
TIMED = """
import time
started = time.perf_counter()
work()
print(time.perf_counter() - started)
"""
TIME_BAR, LARGEST_BAR, SPARE_GIGABYTES = 2.5, 1.2, 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--family", choices=sorted(CONFIGS), default="clip")
    parser.add_argument("--folder", type=Path, help="where the files are made; default: the system's temporary folder")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result = measure(Path(folder), options)
    table = Table(
        "", "median s", "s/GB", "x torch", "peak anonymous, GB", title=f"{result['gigabytes']:.2f} GB of bf16"
    )
    for name, row in result["stages"].items():
        table.add_row(name, *(f"{row[key]:.2f}" for key in ("seconds", "seconds_per_gigabyte", "ratio", "anonymous")))
    console = Console(width=110)
    console.print(table)
    console.print(f"each at most {TIME_BAR} x torch wanted; import and export together: {result['ratio']:.2f} x")
    console.print(f"anonymous memory: at most {result['anonymous_bar']:.2f} GB wanted")
    print(json.dumps(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def measure(root: Path, options: argparse.Namespace) -> dict[str, Any]:
    source, imported, exported, copied = (root / name for name in ("source", "imported", "exported", "copied"))
    largest, total = make_shard(source, options.family, options.gigabytes)
    stages = {
        "torch": (TORCH, {"source": str(source), "out": str(copied)}),
        "import": (COMMAND, {"arguments": _command("import", "family", options.family, source, imported)}),
        "export": (COMMAND, {"arguments": _command("export", "to", "hf", imported, exported)}),
    }
    laps: dict[str, list[tuple[float, float]]] = {name: [] for name in stages}
    for _ in range(options.repeats):
        for name, (work, names) in stages.items():
            os.sync()
            laps[name].append(run(work, names))
        refuse_difference(source, exported)
        copied.unlink()
        shutil.rmtree(imported)
        shutil.rmtree(exported)
    medians = {name: statistics.median(seconds for seconds, _ in runs) for name, runs in laps.items()}
    rows = {
        name: {
            "seconds": seconds,
            "seconds_per_gigabyte": seconds / total,
            "ratio": seconds / medians["torch"],
            "anonymous": max(peak for _, peak in laps[name]),
            "laps": [seconds for seconds, _ in laps[name]],
        }
        for name, seconds in medians.items()
    }
    ratios = [(i + e) / t for (t, _), (i, _), (e, _) in zip(*laps.values())]
    return {
        "family": options.family,
        "gigabytes": total,
        "largest_tensor_gigabytes": largest,
        "stages": rows,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "anonymous_bar": LARGEST_BAR * largest + SPARE_GIGABYTES,
    }


def make_shard(folder: Path, family: str, gigabytes: float) -> tuple[float, float]:
    """A Hugging Face folder of so many layers that they come to `gigabytes`. Returns: GB of largest tensor, of all."""
    one, two = (sum(np.prod(shape) for _, shape in _tensors(family, layers)) for layers in (1, 2))
    layers = max(1, round((gigabytes * 1e9 / 2 - one) / (two - one)) + 1)
    tensors = _tensors(family, layers)
    largest = int(max(np.prod(shape) for _, shape in tensors))
    values = np.random.default_rng(0).standard_normal(largest, np.float32).astype("bfloat16")
    shifted = ((name, values[: int(np.prod(shape))].reshape(shape)) for name, shape in tensors)
    folder.mkdir()
    save(folder, shifted, max_shard_bytes=10**12)
    (folder / "config.json").write_text(json.dumps(CONFIGS[family](layers)))
    return largest * 2 / 1e9, sum(int(np.prod(shape)) for _, shape in tensors) * 2 / 1e9


def _tensors(family: str, layers: int) -> list[tuple[str, tuple[int, ...]]]:
    model = pretrained.config_of(family, CONFIGS[family](layers), file=Path("config.json"))
    return [(t.name, t.shape) for t in disk_tensors(find_family(family).rules, pretrained.shapes_of(model))]


def _command(name: str, option: str, value: str, source: Path, out: Path) -> list[str]:
    return [
        name,
        f"--{option}",
        value,
        "--from" if name == "import" else "--checkpoint",
        str(source),
        "--out",
        str(out),
    ]


def run(work: str, names: dict[str, Any]) -> tuple[float, float]:
    """Seconds of `work` in a process of its own, and the most anonymous memory that it had, in GB."""
    given = "".join(f"{name} = {value!r}\n" for name, value in names.items())
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    peak = 0
    with subprocess.Popen(
        [sys.executable, "-c", given + work + TIMED], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        while process.poll() is None:
            peak = max(peak, anonymous_bytes(process.pid))
            time.sleep(0.02)
        assert process.returncode == 0
        assert process.stdout is not None
        return float(process.stdout.read()), peak / 1e9


def anonymous_bytes(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:  # it has ended
        return 0
    return sum(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:"))


def refuse_difference(source: Path, exported: Path) -> None:
    ours, theirs = SafetensorsFolder(exported), SafetensorsFolder(source)
    assert ours.names() == theirs.names()
    assert all(same_bits(ours.read(name), theirs.read(name)) for name in theirs.names()), "the round trip is not exact"


if __name__ == "__main__":
    main()
