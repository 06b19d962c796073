"""Print the page on all datasets: robot, cameras, action, what upstream does otherwise, what is not published."""

import argparse

from data_pipelines.catalog import page

HELP = "all datasets that have a file, as Markdown"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    del parser


def run(options: argparse.Namespace) -> int:
    del options
    print(page(), end="")
    return 0
