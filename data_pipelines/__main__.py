"""python -m data_pipelines  index | stats | demo"""

import argparse
import importlib.util
import inspect
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from data_pipelines.action_spaces import relative_pose
from data_pipelines.cache import write_json
from data_pipelines.discovery import find_action_space, find_dataset
from data_pipelines.index.dataset_directory import read_directory
from data_pipelines.index.sidecar import open_index
from data_pipelines.statistics import open_statistics
from data_pipelines.table import open_table
from vla_jax.types import ActionSpace, InputError

RECIPE_HELP = (
    "configs/NAME.py[:VARIANT]: statistics in this recipe's action space; "
    "without it, of the standardised data: relative poses one step ahead"
)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_pipelines", description="Prepare and inspect RLDS datasets.")
    commands = parser.add_subparsers(required=True)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vla_jax"
    for name, command, text in (
        ("index", _index, "write the offset sidecar of every split (nothing to do where one is valid)"),
        ("stats", _stats, "action and proprio statistics; no picture is decoded"),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        sub.add_argument("directory", type=Path, help="dataset directory, NAME/VERSION")
        sub.add_argument(
            "--cache", type=Path, default=home, help="where index, tables and statistics lie (%(default)s)"
        )
        sub.add_argument("--jobs", type=_positive, default=os.cpu_count() or 1, help="processes (%(default)s)")
    sub.add_argument("--config", help=RECIPE_HELP)
    sub.add_argument("--split", default="train")
    sub.add_argument("--json", type=Path, help="also write dataset_statistics.json here")
    _add_demo(commands)
    return parser


def _add_demo(commands: Any) -> None:
    text = "scripted experts in an environment to an RLDS dataset, OUT/NAME/VERSION; run again, it goes on"
    sub = commands.add_parser("demo", help=text, description=text)
    sub.set_defaults(command=_demo)
    sub.add_argument("--env", default="tabletop", help="%(default)s")
    sub.add_argument("--embodiment", required=True, help="tabletop: gantry, arm")
    sub.add_argument("--suite", default="reach", help="one or several, by commas (%(default)s)")
    sub.add_argument("--episodes", type=_positive, default=1000, help="a tenth of them is split val (%(default)s)")
    sub.add_argument("--seed", type=int, default=0, help="%(default)s")
    sub.add_argument("--image-size", type=_positive, default=224, help="pixels (%(default)s)")
    sub.add_argument("--noise", type=float, default=0.1, help="on commanded positions, in expert strides (%(default)s)")
    sub.add_argument("--out", type=Path, required=True, help="the data root")
    sub.add_argument("--jobs", type=_positive, default=os.cpu_count() or 1, help="processes (%(default)s)")
    sub.add_argument("--no-install", action="store_true", help="as root: do not install a GL library where none is")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number from 1 on is expected")
    return int(text)


def _index(options: argparse.Namespace) -> None:
    directory = read_directory(options.directory)
    for split in directory.splits:
        index = open_index(directory, split, options.cache, jobs=options.jobs)
        counts = f"{index.num_episodes} episodes, {index.num_steps} steps, {len(index.shards)} shards"
        print(f"{split}: {counts}: {index.folder}")


def _stats(options: argparse.Namespace) -> None:
    if options.json:
        _check_writable(options.json)
    space = _recipe_space(options.config) if options.config else relative_pose.action_space(1)
    directory = read_directory(options.directory)
    dataset = find_dataset(directory.name)
    index = open_index(directory, options.split, options.cache, jobs=options.jobs)
    table = open_table(dataset, index, options.cache)
    form = find_action_space(space.form)
    tree = {directory.name: open_statistics(dataset, index, table, form, space, options.cache)}
    if options.json:
        write_json(options.json, tree)
    _print_table(tree[directory.name], space)


def _demo(options: argparse.Namespace) -> None:
    from data_pipelines.demos.generation import DemonstrationConfig, generate

    config = DemonstrationConfig(
        environment=options.env,
        embodiment=options.embodiment,
        suites=tuple(options.suite.split(",")),
        episodes=options.episodes,
        seed=options.seed,
        image_size=options.image_size,
        noise=options.noise,
    )
    report = generate(config, options.out, jobs=options.jobs, install=not options.no_install)
    failed = ", ".join(f"{task} {count}" for task, count in report["failures"].items()) or "none"
    print(
        f"{options.out / config.dataset}: {report['episodes']['train']} train and {report['episodes']['val']} val "
        f"episodes, {report['steps']} steps; the expert succeeded in {report['expert_success_rate']:.1%} of its "
        f"trials, failures left out: {failed}"
    )


def _check_writable(file: Path) -> None:
    folder = file.parent
    if file.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        cause = "it is a folder" if file.is_dir() else f"{folder} is no folder that can be written"
        raise InputError(f"--json {file}: {cause}; name a file in a folder that exists")


def _recipe_space(name: str) -> ActionSpace:
    """The action space of `configs/NAME.py[:VARIANT]`; a recipe is code of the user's own.

    `vla_jax.recipe.load` reads a whole RunConfig, which this package may not import.
    """
    path, _, variant = name.partition(":")
    if not Path(path).is_file():
        raise InputError(f"--config {name}: no file {path}")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"--config {name}: {path} is not a Python file")
    recipe = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(recipe)
    except SyntaxError as error:
        raise InputError(f"--config {name}: {error.filename}, line {error.lineno}: {error.msg}; mend it") from error
    except ImportError as error:
        raise InputError(f"--config {name}: {path}: {type(error).__name__}: {error}") from error
    variant = variant or "get_config"
    function = getattr(recipe, variant, None)
    if not inspect.isfunction(function):
        raise InputError(f"--config {name}: {path} has no function {variant}()")
    config = function()
    space = getattr(config, "action_space", None)
    if not isinstance(space, ActionSpace):
        raise InputError(
            f"--config {name}: {variant}() gives a {type(config).__name__} without an ActionSpace, expected a RunConfig"
        )
    return space


def _print_table(statistics: dict[str, Any], space: ActionSpace) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = RichTable("", "dimension", "unit", "mean", "std", "min", "q01", "q99", "max")
    for part, dimensions in (("action", space.dimensions), ("proprio", space.proprio)):
        for number, dimension in enumerate(dimensions):
            values = [f"{statistics[part][key][number]:.4g}" for key in ("mean", "std", "min", "q01", "q99", "max")]
            table.add_row(part, dimension.name, dimension.unit, *values)
    console.print(table)
    print(
        f"{statistics['num_trajectories']} trajectories, {statistics['num_transitions']} transitions, "
        f"{space.form}, horizon {space.horizon}"
    )


if __name__ == "__main__":
    sys.exit(main())
