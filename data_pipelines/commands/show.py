"""Draw one batch of a recipe after every transform, as pictures and numbers, and time the stages that it goes through.

--dotted.key value after it changes the recipe, as in train.py. Colour augmentation happens on the device, in the
training step, and is not shown.
"""

import argparse
import dataclasses
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable

from data_pipelines.cache import new_folder, write_json
from data_pipelines.command_line import add_cache, check_writable, positive
from data_pipelines.pipeline import Pipeline, open_pipeline
from data_pipelines.recipe import data_requirements, load_recipe, override
from data_pipelines.report.recording import import_rerun, write_recording
from data_pipelines.report.sample import ShownSample, shown_samples
from data_pipelines.report.sheet import draw_sheet
from data_pipelines.report.stages import Timing, time_batches
from vla_jax.types import DataRequirements, InputError, Tokenize

HELP = "draw one batch after every transform, and time the stages"
MOST_TIMED = 64
NUMBERS = "numbers.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="configs/NAME.py[:VARIANT]")
    parser.add_argument("--out", type=Path, required=True, help="a folder: sample_NN.png and numbers.json")
    parser.add_argument("--step", type=int, default=0, help="the batch of this step (%(default)s)")
    parser.add_argument("--samples", type=positive, default=4, help="rows of it that are drawn (%(default)s)")
    parser.add_argument("--rrd", type=Path, help="also write a Rerun recording here (needs rerun-sdk)")
    parser.set_defaults(overrides=[])
    add_cache(parser)


def run(options: argparse.Namespace) -> int:
    _check(options)
    config = override(load_recipe(options.config), options.overrides, program="python -m data_pipelines show")
    needs = data_requirements(config, options.config)
    pipeline = open_pipeline(
        config.data,
        needs,
        stand_in(needs),
        seed=config.seed,
        batch_size=config.batch_size,
        cache=Path(config.data.cache or options.cache),
        quarantine=None,
    )
    samples = shown_samples(pipeline, options.step, min(options.samples, config.batch_size))
    timing = time_batches(pipeline, options.step, min(MOST_TIMED, config.batch_size))
    if options.rrd:
        write_recording(options.rrd, samples, needs, f"{options.config}, step {options.step}")
    with new_folder(options.out) as folder:
        for number, sample in enumerate(samples):
            draw_sheet(folder / f"sample_{number:02d}.png", sample, needs)
        write_json(folder / NUMBERS, _tree(options, pipeline, samples, timing))
    _print_timing(timing)
    print(f"{options.out}: {len(samples)} samples of step {options.step}, {NUMBERS}")
    return 0


def stand_in(needs: DataRequirements) -> Tokenize:
    """Words to numbers, so that a batch can be put together without the recipe's vocabulary."""
    vocabulary = needs.vocab_size or 1 << 15

    def tokenize(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.zeros((len(texts), needs.text_length), np.int32)
        mask = np.zeros(tokens.shape, bool)
        for row, text in enumerate(texts):
            words = [zlib.crc32(word.encode()) % vocabulary for word in text.split()][: needs.text_length]
            tokens[row, : len(words)], mask[row, : len(words)] = words, True
        return tokens, mask

    return tokenize


def _check(options: argparse.Namespace) -> None:
    """InputError before the work, where its results could not be written."""
    if options.step < 0:
        raise InputError(f"--step {options.step}: a number from 0 on is expected")
    check_writable("--out", options.out / NUMBERS if options.out.is_dir() else options.out)
    if options.out.is_dir() and any(options.out.iterdir()) and not (options.out / NUMBERS).is_file():
        raise InputError(f"--out {options.out}: a folder with other files in it; name a new one")
    if options.rrd:
        check_writable("--rrd", options.rrd)
        import_rerun()


def _tree(
    options: argparse.Namespace, pipeline: Pipeline, samples: list[ShownSample], timing: Timing
) -> dict[str, Any]:
    needs = pipeline.assembler.requirements
    return {
        "config": options.config,
        "step": options.step,
        "requirements": dataclasses.asdict(needs),
        "samples": [sample.tree() for sample in samples],
        "timing": dataclasses.asdict(timing) | {"images_per_cpu_second": timing.images_per_cpu_second},
    }


def _print_timing(timing: Timing) -> None:
    table = RichTable("stage", "ms a batch", "share", "calls")
    total = sum(stage.milliseconds for stage in timing.stages)
    for stage in timing.stages:
        share = f"{stage.milliseconds / total:.1%}"
        table.add_row(stage.name, f"{stage.milliseconds:.2f}", share, f"{stage.calls:.0f}")
    Console().print(table)
    print(
        f"{timing.milliseconds:.1f} ms a batch of {timing.num_samples} samples without the profiler, "
        f"{timing.num_pictures:.0f} pictures, {timing.images_per_cpu_second:.0f} images a CPU-second"
    )
