"""Action and proprio statistics of a split; no picture is decoded."""

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from data_pipelines.action_spaces import relative_pose
from data_pipelines.cache import write_json
from data_pipelines.command_line import add_beam, add_cache, add_directory, add_jobs, beam_of, check_writable
from data_pipelines.discovery import find_dataset
from data_pipelines.index.dataset_directory import read_directory
from data_pipelines.index.sidecar import open_index
from data_pipelines.recipe import load_recipe
from data_pipelines.statistics import open_statistics
from data_pipelines.table import open_table
from vla_jax.types import ActionSpace

HELP = "action and proprio statistics; no picture is decoded"
RECIPE_HELP = (
    "configs/NAME.py[:VARIANT]: statistics in this recipe's action space; "
    "without it, of the standardised data: relative poses one step ahead"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser)
    add_cache(parser)
    add_jobs(parser)
    parser.add_argument("--config", help=RECIPE_HELP)
    parser.add_argument("--split", default="train")
    parser.add_argument("--json", type=Path, help="also write dataset_statistics.json here")
    add_beam(parser)


def run(options: argparse.Namespace) -> int:
    beam = beam_of(options)
    if options.json:
        check_writable("--json", options.json)
    space = load_recipe(options.config).action_space if options.config else relative_pose.action_space(1)
    directory = read_directory(options.directory)
    dataset = find_dataset(directory.name)
    if beam is not None:
        beam.summarize(directory, options.split, options.cache, dataset, space)
    index = open_index(directory, options.split, options.cache, jobs=options.jobs)
    table = open_table(dataset, index, options.cache, jobs=options.jobs)
    statistics = open_statistics(dataset, index, table, space, options.cache, jobs=options.jobs)
    tree = {directory.name: statistics.tree()}
    if options.json:
        write_json(options.json, tree)
    _print_table(tree[directory.name], space)
    return 0


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
