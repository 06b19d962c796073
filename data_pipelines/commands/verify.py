"""Damage and convention checks of a dataset directory, every record of it. Exit code 0: clean, 3: findings."""

import argparse
import sys
import textwrap
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data_pipelines.cache import write_json
from data_pipelines.command_line import add_directory, add_jobs, check_writable
from data_pipelines.index.dataset_directory import read_directory
from data_pipelines.verification.check import all_checks
from data_pipelines.verification.finding import Finding
from data_pipelines.verification.pictures import SAMPLED
from data_pipelines.verification.verification import Report, verify

HELP = "damage and convention checks; exit 0 clean, 3 findings"
FOUND = 3
NUM_PLACES = 3
ALL_IMAGES = f"decode every picture; without it {SAMPLED} of each camera and episode, and those that look damaged"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n\n".join(
        textwrap.fill(
            f"{check.code} ({check.severity}): {' '.join((check.__doc__ or '').split())}", 110, subsequent_indent="    "
        )
        for check in all_checks()
    )
    add_directory(parser)
    parser.add_argument("--json", type=Path, help="also write the findings here")
    parser.add_argument("--all-images", action="store_true", help=ALL_IMAGES)
    add_jobs(parser)


def run(options: argparse.Namespace) -> int:
    if options.json:
        check_writable("--json", options.json)
    directory = read_directory(options.directory)
    report = verify(directory, jobs=options.jobs, all_images=options.all_images)
    name = f"{directory.name} {directory.version}"
    if options.json:
        write_json(options.json, {"dataset": name, "findings": report.findings.tree()})
    if len(report.findings):
        _print_table(report)
    for remark in report.remarks:
        print(remark)
    print(
        f"{name}: {report.num_episodes} episodes, {report.num_steps} steps, {len(report.findings)} findings "
        f"of {len(report.findings.codes())} kinds"
    )
    return FOUND if len(report.findings) else 0


def _print_table(report: Report) -> None:
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table("code", "severity", "count", "first places", "the first says")
    for code in report.findings.codes():
        findings = report.findings.of(code)
        places = "\n".join(_place(finding) for finding in findings[:NUM_PLACES])
        cells = (code, findings[0].severity, str(report.findings.totals[code]), places, findings[0].message)
        table.add_row(*map(escape, cells))
    console.print(table)


def _place(finding: Finding) -> str:
    """The episode's number tells the shard too."""
    parts = [finding.split, None if finding.episode is not None else finding.shard]
    for name, number in (("episode", finding.episode), ("step", finding.step)):
        parts.append(None if number is None else f"{name} {number}")
    return " ".join(part for part in parts if part) or "whole dataset"
