"""Write the offset sidecar of every split (nothing to do where one is valid)."""

import argparse

from data_pipelines.command_line import add_beam, add_cache, add_directory, add_jobs, beam_of
from data_pipelines.index.dataset_directory import read_directory
from data_pipelines.index.sidecar import open_index

HELP = "write the offset sidecar of every split"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser)
    add_cache(parser)
    add_jobs(parser)
    add_beam(parser)


def run(options: argparse.Namespace) -> int:
    beam = beam_of(options)
    directory = read_directory(options.directory)
    for split in directory.splits:
        if beam is not None:
            beam.index(directory, split, options.cache)
        index = open_index(directory, split, options.cache, jobs=options.jobs)
        counts = f"{index.num_episodes} episodes, {index.num_steps} steps, {len(index.shards)} shards"
        print(f"{split}: {counts}: {index.folder}")
    return 0
