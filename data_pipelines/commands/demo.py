"""Scripted experts in an environment to an RLDS dataset, OUT/NAME/VERSION; run again, it goes on."""

import argparse
from pathlib import Path

from data_pipelines.command_line import add_jobs, positive

HELP = "scripted experts in an environment to an RLDS dataset"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--env", default="tabletop", help="%(default)s")
    parser.add_argument("--embodiment", required=True, help="tabletop: gantry, arm")
    parser.add_argument("--suite", default="reach", help="one or several, by commas (%(default)s)")
    parser.add_argument("--without-tasks", help="of the suites, by commas: to be left out")
    parser.add_argument("--episodes", type=positive, default=1000, help="a tenth of them is split val (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    parser.add_argument("--image-size", type=positive, default=224, help="pixels (%(default)s)")
    parser.add_argument(
        "--noise", type=float, default=0.1, help="on commanded positions, in expert strides (%(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="the data root")
    add_jobs(parser)
    parser.add_argument("--no-install", action="store_true", help="as root: do not install a GL library where none is")


def run(options: argparse.Namespace) -> int:
    from data_pipelines.demos.generation import DemonstrationConfig, generate  # MuJoCo: other commands do without

    config = DemonstrationConfig(
        environment=options.env,
        embodiment=options.embodiment,
        suites=tuple(options.suite.split(",")),
        without_tasks=tuple(options.without_tasks.split(",")) if options.without_tasks else None,
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
    return 0
