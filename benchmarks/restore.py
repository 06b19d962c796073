"""Memory that restoring a checkpoint takes beside the state itself: arrays go to their devices one after the other.

    python -m benchmarks.restore [--leaves N] [--leaf-mb N]

A folder of N equal float32 arrays, written as checkpoints are, is read in a process of its own onto a mesh of eight
devices of this CPU, whose memory is the host's. Printed is the most anonymous memory that the process had (sampled each
2 ms) less what it had before and the bytes of the arrays, over the size of one array. `one by one` is what every
restore does (`parameter_store.read_arrays` with shardings); `whole` has all on the host first. Bar: 1.3.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.weights import anonymous_bytes

WAYS = ("one by one", "whole")
SECONDS_BETWEEN = 0.002


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--leaves", type=int, default=8)
    parser.add_argument("--leaf-mb", type=int, default=256)
    parser.add_argument("--side", choices=WAYS, help="one process: prints a line of JSON")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.side is not None:
        print(json.dumps(_restored(options.side, options.folder)))
        return
    from vla_jax.parameter_store import write_arrays

    table = Table(
        "restored", "beside the state, MB", "over one array", title=f"{options.leaves} x {options.leaf_mb} MB"
    )
    with tempfile.TemporaryDirectory() as folder:
        rows = options.leaf_mb * 10**6 // 4 // 8000 * 8
        random = np.random.default_rng(0)
        arrays = {f"leaf_{number}": random.random((rows, 1000), np.float32) for number in range(options.leaves)}
        write_arrays(Path(folder) / "arrays", arrays)
        for side in WAYS:
            found = _process(side, Path(folder) / "arrays")
            table.add_row(side, f"{found['beside'] / 1e6:.0f}", f"{found['beside'] / found['leaf']:.2f}")
            print(json.dumps({"restored": side} | found))
    Console().print(table)


def _process(side: str, folder: Path) -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.restore", "--side", side, "--folder", str(folder)]
    devices = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    ended = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | devices)
    return json.loads(ended.stdout.splitlines()[-1])


def _restored(side: str, folder: Path) -> dict[str, int]:
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from vla_jax.parameter_store import array_paths, read_arrays
    from vla_jax.sharding import MeshConfig

    mesh = MeshConfig(data=1, fsdp=8).build(jax.devices())
    places = dict.fromkeys(array_paths(folder), NamedSharding(mesh, PartitionSpec("fsdp")))
    before, samples, is_over = anonymous_bytes(os.getpid()), [0], threading.Event()

    def sample() -> None:
        while not is_over.is_set():
            samples.append(anonymous_bytes(os.getpid()))
            time.sleep(SECONDS_BETWEEN)

    thread = threading.Thread(target=sample)
    thread.start()
    if side == "whole":
        arrays = {path: jax.device_put(array, places[path]) for path, array in read_arrays(folder).items()}
    else:
        arrays = read_arrays(folder, places)
    jax.block_until_ready(arrays)
    is_over.set()
    thread.join()
    state = sum(array.nbytes for array in arrays.values())
    return {
        "beside": max(samples) - before - state,
        "state": state,
        "leaf": max(array.nbytes for array in arrays.values()),
    }


if __name__ == "__main__":
    main()
