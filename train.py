"""Trains: python train.py --config configs/NAME.py[:VARIANT] [--run-dir DIR] [--init-from RUN_OR_PARAMS] [--key value]

Run again with the same --run-dir it resumes by itself. A fine-tune (--init-from) reads text with its source's
vocabulary; another one is refused. Exit codes: 0 done, 75 run the same command again (preempted, or ended by the
watchdog), 2 bad configuration or input, 1 failure.
"""

import argparse
import logging
import sys
import traceback
from pathlib import Path

import jax
from flax import nnx

from data_pipelines.discovery import refuse_unknown_slots
from data_pipelines.pipeline import open_pipeline
from vla_jax import accelerator, recipe
from vla_jax.config import RunConfig
from vla_jax.convert.load import load_pretrained
from vla_jax.run_directory import RunDirectory
from vla_jax.training import provenance
from vla_jax.training.goodput import Goodput, process_age
from vla_jax.training.host_log import host_log
from vla_jax.training.initialization import starting_parameters
from vla_jax.training.loop import Training
from vla_jax.training.preemption import EXIT_CODE, Preemption
from vla_jax.training.profile import Profile, steps_to_profile
from vla_jax.training.program import build_program
from vla_jax.types import InputError, Parameters


def main(arguments: list[str]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True)
    logging.getLogger("absl").setLevel(logging.WARNING)
    nnx.set_graph_mode(False)
    nnx.set_graph_updates(False)
    try:
        goodput = Goodput(age_seconds=process_age())
        accelerator.choose_platform()
        options, config = parse(arguments)
        accelerator.join_processes()
        with Preemption() as preemption:
            return run(config, options, preemption, goodput)
    except InputError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        return accelerator.leave_others(1)


def parse(arguments: list[str]) -> tuple[argparse.Namespace, RunConfig]:
    """Our own options, and the configuration that the recipe and the rest of the line make."""
    parser = argparse.ArgumentParser(prog="train.py", description=__doc__, allow_abbrev=False, add_help=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config", help="configs/NAME.py or configs/NAME.py:VARIANT; with it, --help lists its keys")
    parser.add_argument("--run-dir", type=Path, help="default runs/NAME")
    parser.add_argument("--init-from", type=Path, help="a run or a parameter folder to start from")
    parser.add_argument("--profile", metavar="START:STOP", help="trace these steps into RUN/profile")
    options, rest = parser.parse_known_args(arguments)
    if options.config is None:
        if {"-h", "--help"} & set(rest):
            parser.print_help()
            sys.exit(0)
        raise InputError("--config is missing: train.py --config configs/NAME.py[:VARIANT]; see train.py --help")
    config = recipe.override(recipe.load(options.config), rest, program="train.py")
    options.run_dir = options.run_dir or Path("runs") / config.name
    options.profile = steps_to_profile(options.profile, config.num_steps) if options.profile else range(0)
    return options, config


def run(config: RunConfig, options: argparse.Namespace, preemption: Preemption, goodput: Goodput) -> int:
    directory, init_from = RunDirectory(options.run_dir), options.init_from
    provenance.refuse_file(directory)
    provenance.refuse_changed_config(directory, config)
    provenance.refuse_forgotten_source(directory, init_from)
    if colors := config.augmentation:
        refuse_unknown_slots("augmentation.slots", colors.slots)
        refuse_unknown_slots("augmentation.kept_slot", [colors.kept_slot] if colors.kept_slot else [])
    program = build_program(config, config.mesh.build())
    reads = config.policy.data_requirements()
    vocabulary = provenance.tokenizer_config(directory, config, init_from)
    tokenizer = vocabulary.build(reads.text_length, reads.vocab_size, config.policy.prompt())
    with accelerator.first_process_first("data"):
        pipeline = open_pipeline(
            config.data,
            reads,
            tokenizer,
            seed=config.seed,
            batch_size=config.batch_size,
            cache=Path(config.data.cache) if config.data.cache else directory.data,
            quarantine=directory.quarantine(jax.process_index()),
        )

    def start() -> Parameters:
        given = starting_parameters(program, init_from, load_pretrained)
        if jax.process_index() == 0:
            tokenizer.save(directory.tokenizer)
        return given

    profile = Profile(options.profile, directory.profile)
    training = Training(program, directory, pipeline, preemption, goodput=goodput, profile=profile)
    with host_log(directory.log(jax.process_index())):
        return 0 if training.run(start, init_from=init_from) else EXIT_CODE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
