"""What the training loop adds to the compiled step, as ratios measured in one run.

    python -m benchmarks.training_step [--steps N] [--repeats N]

EF-VLA's tiny twin on generated data, one CPU device. `resident` calls the jitted step again and again on one batch that
lies on the device; `fed` takes each batch from the pipeline through the loader, as train.py does; `dispatch` is the
time until a call returns, before its result is there. Repeats interleave; medians are printed.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import jax
from flax import nnx
from rich.console import Console
from rich.table import Table

from data_pipelines.pipeline import open_pipeline
from tests.rlds_episodes import write_bridge
from vla_jax import recipe
from vla_jax.config import RunConfig
from vla_jax.training.loader import Loader
from vla_jax.training.program import Program, build_program

RECIPE = "configs/ef_vla_bridge.py:tiny"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    nnx.set_graph_mode(False)
    nnx.set_graph_updates(False)
    config = recipe.load(RECIPE)
    program = build_program(config, config.mesh.build(jax.devices()[:1]))
    with tempfile.TemporaryDirectory() as folder:
        write_bridge(Path(folder), lengths=(38,) * 20, size=(64, 64))
        pipeline = _pipeline(config, Path(folder))
        laps = [_measure(program, pipeline, options.steps) for _ in range(options.repeats + 1)][1:]
    figures = {name: statistics.median(lap[name] for lap in laps) for name in laps[0]}
    figures["fed_over_resident"] = figures["fed_ms"] / figures["resident_ms"]
    figures["dispatch_over_resident"] = figures["dispatch_ms"] / figures["resident_ms"]
    table = Table("figure", "median", title=f"training step, {RECIPE}, batch {config.batch_size}")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:.3f}")
    Console().print(table)
    print(json.dumps(figures))


def _pipeline(config: RunConfig, folder: Path):
    reads = config.policy.data_requirements()
    data = recipe.override(config, ["--data.root", str(folder)], program="bench").data
    tokenize = config.tokenizer.build(reads.text_length, reads.vocab_size, config.policy.prompt())
    return open_pipeline(
        data, reads, tokenize, seed=0, batch_size=config.batch_size, cache=folder / "cache", quarantine=None
    )


def _measure(program: Program, pipeline, steps: int) -> dict[str, float]:
    """Milliseconds a step."""
    state, frozen = program.initial({})
    frozen = program.place_frozen(frozen)
    loader = Loader(pipeline.batches(0), program.mesh, batch_size=program.config.batch_size)
    try:
        batch = next(loader)
        state, metrics = program.step(state, frozen, batch)
        metrics["loss"].block_until_ready()
        dispatch, started = [], time.perf_counter()
        for _ in range(steps):
            called = time.perf_counter()
            state, metrics = program.step(state, frozen, batch)
            dispatch.append(time.perf_counter() - called)
            metrics["loss"].block_until_ready()
        resident = time.perf_counter() - started
        started = time.perf_counter()
        for _ in range(steps):
            state, metrics = program.step(state, frozen, next(loader))
            metrics["loss"].block_until_ready()
        fed = time.perf_counter() - started
    finally:
        loader.close()
    return {
        "resident_ms": 1e3 * resident / steps,
        "fed_ms": 1e3 * fed / steps,
        "dispatch_ms": 1e3 * statistics.median(dispatch),
    }


if __name__ == "__main__":
    main()
