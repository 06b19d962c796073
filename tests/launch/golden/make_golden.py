"""Writes the golden launch files: python -m tests.launch.golden.make_golden. Read the difference before you keep it."""

import argparse
from pathlib import Path

from vla_jax.commands import launch

GOLDEN = Path(__file__).parent
RECIPE = ["--config", "configs/ef_vla_oxe.py", "--data.root", "gs://oxe", "--data.cache", "/mnt/runs/cache"]
RECIPE += ["--policy.clip-weights", "/mnt/runs/clip", "--tokenizer.path", "/mnt/runs/clip", "--batch-size", "1024"]
RECIPE += ["--run-dir", "/mnt/runs/ef_vla_oxe"]
CLONED = ["--code", "https://github.com/lab/vla_jax.git", "--revision", "v1.0"]
CASES = {
    "tpu_vm.sh": "--target tpu-vm --topology v5e:16x16 --zone us-east5-b --storage /mnt/runs=10.0.0.2:/runs --spot",
    "tpu_vm_slices.sh": "--target tpu-vm --topology v5p:4x4x8 --slices 2 --zone us-east5-a --storage /mnt/runs=gs://runs",
    "gke.yaml": "--target gke --topology v6e:16x16 --storage /mnt/runs=pvc:runs --cluster pod",
    "gke_slices.yaml": "--target gke --topology v5e:8x16 --slices 2 --spot --service-account trainer "
    "--storage /mnt/runs=10.0.0.2:/runs --storage /mnt/data=gs://oxe-data",
    "slurm.sh": "--target slurm --nodes 4 --partition gpu --storage /mnt/runs --code /home/lab/vla_jax",
    "sky_gpu.yaml": "--target sky --gpu H100 --nodes 4 --storage /mnt/runs=gs://runs",
    "sky_tpu.yaml": "--target sky --topology v6e:4x4 --spot --storage /mnt/runs=gs://runs",
}


def render(*arguments: str) -> str:
    """What `python -m vla_jax launch` prints."""
    parser = argparse.ArgumentParser()
    launch.add_arguments(parser)
    options, options.overrides = parser.parse_known_args(arguments)
    return launch.launch_file(options)


def render_case(name: str) -> str:
    arguments = CASES[name].split()
    return render(*arguments, *(() if "--code" in arguments else CLONED), *RECIPE)


if __name__ == "__main__":
    for name in CASES:
        (GOLDEN / name).write_text(render_case(name))
