"""One offline HTML page on datasets and a mixture of them: counts, histograms, pictures, what `verify` finds."""

import argparse
from pathlib import Path

from data_pipelines.command_line import add_cache, add_jobs, check_writable, positive
from data_pipelines.index.dataset_directory import DatasetDirectory, read_directory
from data_pipelines.mixtures import PUBLISHED, mixture
from data_pipelines.recipe import load_recipe
from data_pipelines.report import page
from data_pipelines.report.survey import Settings, survey
from data_pipelines.report.weights import PlannedMixture, weigh
from data_pipelines.storage import locate
from vla_jax.types import ActionSpace, InputError

HELP = "one offline HTML page on datasets and a mixture of them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directories", nargs="+", metavar="DIR", help="dataset directory, NAME/VERSION")
    parser.add_argument("--out", type=Path, required=True, help="the HTML file")
    mixtures = parser.add_mutually_exclusive_group()
    mixtures.add_argument("--mixture", help="a published mixture, by name: its weights and shares")
    mixtures.add_argument("--config", help="configs/NAME.py[:VARIANT]: its mixture, steps, split and action space")
    parser.add_argument("--steps", type=positive, help="optimizer steps of a run, for epochs (default: the recipe's)")
    parser.add_argument("--batch-size", type=positive, help="global, for epochs (default: the recipe's)")
    parser.add_argument("--split", help="default: the recipe's, else train")
    parser.add_argument("--no-verify", action="store_true", help="without findings, for which all shards are read")
    add_cache(parser)
    add_jobs(parser)


def run(options: argparse.Namespace) -> int:
    check_writable("--out", options.out)
    planned, space, split = _plan(options)
    directories = _directories(options.directories)
    settings = Settings(
        cache=options.cache,
        jobs=options.jobs,
        split=split,
        space=space,
        is_verified=not options.no_verify,
    )
    for directory in directories:
        directory.shards(split)
    surveys = [survey(directory, settings) for directory in directories]
    content = page.compose(surveys, weigh(planned, surveys) if planned else None)
    page.write(content, options.out)
    for told in surveys:
        for part, reason in told.problems.items():
            print(f"{told.name}: {part}: {reason}")
    print(f"{options.out}: {len(surveys)} dataset{'s' if len(surveys) > 1 else ''}, {page.size(len(content.encode()))}")
    return 0


def _plan(options: argparse.Namespace) -> tuple[PlannedMixture | None, ActionSpace | None, str]:
    """The mixture, the recipe's action space, and the split."""
    if bool(options.steps) != bool(options.batch_size) and not options.config:
        raise InputError("--steps and --batch-size: give both, epochs follow from their product")
    if options.config:
        config = load_recipe(options.config)
        planned = PlannedMixture(
            options.config,
            config.data.mixture,
            config.data.weigh_by_size,
            options.steps or config.num_steps,
            options.batch_size or config.batch_size,
        )
        return planned, config.action_space, options.split or config.data.split
    split = options.split or "train"
    if not options.mixture:
        if options.steps:
            raise InputError("--steps: epochs are those of a mixture; name it with --mixture or --config")
        return None, None, split
    weigh_by_size = options.mixture in PUBLISHED and PUBLISHED[options.mixture].weigh_by_size
    entries = mixture(options.mixture)
    return PlannedMixture(options.mixture, entries, weigh_by_size, options.steps, options.batch_size), None, split


def _directories(addresses: list[str]) -> list[DatasetDirectory]:
    directories = [read_directory(locate(address)) for address in addresses]
    names = [directory.name for directory in directories]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{twice} are given twice; a page has each dataset once")
    return directories
