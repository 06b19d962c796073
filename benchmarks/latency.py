"""How long a robot waits for its actions: percentiles of serving, and what caches and batches save, in one run.

    python -m benchmarks.latency [--recipe CONFIG ...] [--dtype bfloat16] [--steps N] [--robots N]

Of each recipe's policy with random weights, by default the CPU twins of four; a recipe without `:tiny` is of full size:

    python -m benchmarks.latency --recipe configs/ef_vla_oxe.py configs/dfa_vla_oxe.py --dtype bfloat16

`uncached`: one robot, `act` on whole windows that reads the instruction anew. `cached`: one robot of a fleet, what it
has sensed is handed over, read and acted on. `batch`: a fleet of N robots that have all sensed something. `singles`: N
fleets of one robot, one after another. Each is timed on the host from numpy arrays until actions are numpy arrays
again. The four interleave; milliseconds, and Hz of the median. Ratios are of medians. What a call itself costs is most
of a tiny twin's time: what a cache saves shows at full size.
"""

import argparse
import json
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

from vla_jax import accelerator, recipe
from vla_jax.inference import readers
from vla_jax.inference.fleet import Fleet
from vla_jax.inference.history import History, gather
from vla_jax.nn import attention_kernels
from vla_jax.parameters import abstract
from vla_jax.policies.base import PolicyConfig
from vla_jax.types import DataRequirements, Parameters

TWINS = [f"configs/{name}_oxe.py:tiny" for name in ("ef_vla", "octo", "dfa_vla", "qwenvla_oft")]
PERCENTILES = (50, 90, 99)
Sensed = tuple[dict[str, np.ndarray], np.ndarray]
"""A robot's pictures by slot, and its proprio."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", nargs="+", default=TWINS)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--robots", type=int, default=8)
    options = parser.parse_args()
    accelerator.choose_platform()
    nnx.set_graph_mode(False)
    nnx.set_graph_updates(False)
    table = Table(
        "recipe", "way", *(f"p{p} ms" for p in PERCENTILES), "Hz", title=f"{options.dtype}, {jax.devices()[0]}"
    )
    figures = {}
    for name in options.recipe:
        laps = _measure(recipe.load(name).policy, options.dtype, options.steps, options.robots)
        figures[name] = _figures(laps)
        for way, found in figures[name]["milliseconds"].items():
            table.add_row(name, way, *(f"{value:.2f}" for value in found.values()), f"{1e3 / found['p50']:.1f}")
        for ratio, value in figures[name]["ratios"].items():
            table.add_row(name, ratio.replace("_", " "), f"{value:.2f}")
    Console().print(table)
    print(json.dumps(figures))


def _figures(laps: dict[str, list[float]]) -> dict[str, dict]:
    milliseconds = {way: {f"p{p}": float(np.percentile(times, p)) for p in PERCENTILES} for way, times in laps.items()}
    median = {way: found["p50"] for way, found in milliseconds.items()}
    ratios = {
        "uncached_over_cached": median["uncached"] / median["cached"],
        "singles_over_batch": median["singles"] / median["batch"],
    }
    return {"milliseconds": milliseconds, "ratios": ratios}


def _measure(config: PolicyConfig, dtype: str, steps: int, num_robots: int) -> dict[str, list[float]]:
    """Milliseconds of each step, by way; the first window's steps are left out."""
    ways, requirements = _ways(config, dtype, num_robots), config.data_requirements()
    generator, laps = np.random.default_rng(0), []
    for _ in range(requirements.window + steps):
        sensed = [_sensed(requirements, generator) for _ in range(num_robots)]
        order = generator.permutation(list(ways))  # none of them always comes after the same one
        laps.append({way: _milliseconds(ways[way], sensed) for way in order})
    return {way: [lap[way] for lap in laps[-steps:]] for way in ways}


def _ways(config: PolicyConfig, dtype: str, num_robots: int) -> dict[str, Callable[[list[Sensed]], None]]:
    """Each takes what robots sense at a step."""
    requirements, generator = config.data_requirements(), np.random.default_rng(1)
    structure = abstract(lambda: config.build(nnx.Rngs(0)))
    parameters = _parameters(structure.shapes(), dtype)
    reader = readers.reader(structure.merge(parameters), structure.merge, parameters, requirements)
    act = jax.jit(attention_kernels.of_inference().around(lambda p, o: structure.merge(p).act(o)))
    history, words = History(requirements), _words(requirements, generator)
    batch, singles = Fleet(reader, num_robots), [Fleet(reader, 1) for _ in range(num_robots)]
    for robot, fleet in enumerate(singles):
        fleet.start(0, *words)
        batch.start(robot, *words)

    def uncached(sensed: list[Sensed]) -> None:
        history.add(*sensed[0])
        np.asarray(act(parameters, gather([history], words, requirements, 1)))

    def serve(fleet: Fleet, sensed: list[Sensed]) -> None:
        for robot, each in enumerate(sensed):
            fleet.sense(robot, *each)
        fleet.act(list(range(len(sensed))))

    def one_by_one(sensed: list[Sensed]) -> None:
        for fleet, each in zip(singles, sensed, strict=True):
            serve(fleet, [each])

    return {
        "uncached": uncached,
        "cached": lambda sensed: serve(singles[0], sensed[:1]),
        "batch": lambda sensed: serve(batch, sensed),
        "singles": one_by_one,
    }


def _parameters(shapes: dict[str, jax.ShapeDtypeStruct], dtype: str) -> Parameters:
    """Random numbers, the same again and again: how long it takes does not depend on them."""
    numbers = 0.02 * np.random.default_rng(0).standard_normal(2**16 + 1, np.float32)

    def array(shape: jax.ShapeDtypeStruct) -> jax.Array:
        is_float = jnp.issubdtype(shape.dtype, jnp.floating)
        return jax.device_put(np.resize(numbers, shape.shape).astype(dtype if is_float else shape.dtype))

    return {path: array(shape) for path, shape in shapes.items()}


def _sensed(requirements: DataRequirements, generator: np.random.Generator) -> Sensed:
    images = {
        camera.slot: generator.integers(0, 256, (camera.height, camera.width, 3), np.uint8)
        for camera in requirements.cameras
    }
    return images, generator.normal(size=requirements.action_space.proprio_width).astype(np.float32)


def _words(requirements: DataRequirements, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    shape = (1, requirements.text_length)
    return generator.integers(3, min(requirements.vocab_size or 300, 300), shape, np.int32), np.ones(shape, bool)


def _milliseconds(run: Callable[[list[Sensed]], None], sensed: list[Sensed]) -> float:
    started = time.perf_counter()
    run(sensed)
    return 1e3 * (time.perf_counter() - started)


if __name__ == "__main__":
    main()
