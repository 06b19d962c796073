"""Prints the launch file of a run: what a scheduler needs to start train.py on all hosts, and again when it is stopped.

--dotted.key value after it changes the recipe, as in train.py. Nothing is started; a file that cannot work is refused.
The contract of exit codes that all files keep is in vla_jax/launch/run.py.
"""

import argparse
import dataclasses
import importlib
import pkgutil
import re
from pathlib import PurePosixPath
from typing import Any

from data_pipelines.command_line import positive
from vla_jax import recipe
from vla_jax.launch import targets
from vla_jax.launch.run import Run
from vla_jax.launch.storage import Storage
from vla_jax.types import InputError

HELP = "the launch file of a run: TPU VMs, GKE, SLURM, SkyPilot"
TARGETS = tuple(info.name.replace("_", "-") for info in pkgutil.iter_modules(targets.__path__))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", required=True, choices=TARGETS)
    parser.add_argument("--config", required=True, help="configs/NAME.py[:VARIANT]")
    parser.add_argument("--run-dir", required=True, help="under the MOUNT of a --storage")
    parser.add_argument("--init-from", help="a run or a parameter folder to start from")
    parser.add_argument(
        "--storage",
        action="append",
        default=[],
        metavar="MOUNT[=SOURCE]",
        help="a file system that all hosts see; SOURCE: gs://BUCKET, HOST:/EXPORT or pvc:NAME, without it the hosts "
        "have it already; may be given again",
    )
    parser.add_argument("--code", required=True, help="a git URL to clone, or the path of a checkout on the hosts")
    parser.add_argument("--revision", help="commit or tag of the git URL")
    parser.add_argument("--job-name", help="of the job (the run directory's)")
    parser.add_argument("--max-failures", type=positive, default=10, help="restarts after failures (%(default)s)")
    parser.add_argument("--grace-seconds", type=positive, default=120, help="from SIGTERM to SIGKILL (%(default)s)")
    of_target = parser.add_argument_group("of some targets")
    of_target.add_argument("--topology", metavar="v5e:16x16", help="tpu-vm, gke, sky: one TPU slice")
    of_target.add_argument("--slices", type=positive, help="tpu-vm, gke: how many (1)")
    of_target.add_argument("--spot", action="store_true", default=None, help="tpu-vm, gke, sky: may be preempted")
    of_target.add_argument("--zone", help="tpu-vm: e.g. us-east5-b")
    of_target.add_argument("--service-account", help="tpu-vm, gke: that may read the buckets")
    of_target.add_argument("--cluster", help="gke: for the line of xpk")
    of_target.add_argument("--image", help="gke: a container image with Python 3.11 or 3.12 (python:3.12)")
    of_target.add_argument("--nodes", type=positive, help="slurm, sky (1)")
    of_target.add_argument("--gpus", type=positive, help="slurm, sky: of a node (8)")
    of_target.add_argument("--gpu", help="sky: e.g. H100")
    of_target.add_argument("--cpus", type=positive, help="slurm: of a node (64)")
    of_target.add_argument("--time", help="slurm (2-00:00:00); the job goes on in the next one")
    of_target.add_argument("--partition", help="slurm")
    of_target.add_argument("--account", help="slurm")
    parser.set_defaults(overrides=[])


def run(options: argparse.Namespace) -> int:
    print(launch_file(options), end="")
    return 0


def launch_file(options: argparse.Namespace) -> str:
    target: Any = importlib.import_module(f"{targets.__name__}.{options.target.replace('-', '_')}").Target
    fields = {field.name: field for field in dataclasses.fields(target)}
    given = {name: value for name, value in _of_targets(options).items() if value is not None}
    for name, value in given.items():
        if name not in fields:
            raise InputError(f"{_option(name)} {value}: no option of --target {options.target}")
        if isinstance(value, str) and not re.fullmatch(r"[\w.,:/@+-]+", value, re.ASCII):
            raise InputError(f"{_option(name)} {value!r}: one word of letters, digits and .,:/@+- is expected")
    missing = [name for name, field in fields.items() if field.default is dataclasses.MISSING and name != "run"]
    if absent := [_option(name) for name in missing if name not in given]:
        raise InputError(f"--target {options.target}: {' and '.join(absent)} is missing")
    return target(run=_run(options), **given).render()


def _run(options: argparse.Namespace) -> Run:
    config = recipe.override(recipe.load(options.config), options.overrides, program="python -m vla_jax launch")
    arguments = ["--config", options.config, "--run-dir", options.run_dir]
    arguments += ["--init-from", options.init_from] if options.init_from else []
    name = re.sub(r"[^a-z0-9]+", "-", PurePosixPath(options.run_dir).name.lower()).strip("-")
    return Run(
        name=options.job_name or name[:40].strip("-"),
        config=config,
        arguments=(*arguments, *options.overrides),
        run_dir=options.run_dir,
        init_from=options.init_from,
        storage=tuple(map(Storage.parse, options.storage)),
        code=options.code,
        revision=options.revision,
        max_failures=options.max_failures,
        grace_seconds=options.grace_seconds,
    )


def _of_targets(options: argparse.Namespace) -> dict[str, Any]:
    """What the group of some targets holds."""
    of_clouds = ("topology", "slices", "spot", "zone", "service_account", "cluster", "image")
    of_nodes = ("nodes", "gpus", "gpu", "cpus", "time", "partition", "account")
    return {name: getattr(options, name) for name in of_clouds + of_nodes}


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
