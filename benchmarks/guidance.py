"""What DeepVision-VLA's pruning map costs: a training step with it, against one that takes its scores from nowhere.

    python -m benchmarks.guidance [--full]

Both steps are of a twin of CPU size, compiled in this process and timed in turns, so that what else the machine does
falls on both; the ratio is of medians. `--full` also counts both at the paper's size, which computes nothing.
"""

import argparse
import statistics
import time
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vla_jax.encoders.dinov3 import Dinov3Config
from vla_jax.flops import count_flops
from vla_jax.fusion import pruning
from vla_jax.parameters import Structure, abstract, split
from vla_jax.policies import deepvision_vla
from vla_jax.training.batch_shapes import batch_shapes
from vla_jax.types import ActionSpace, Batch, Dimension
from vla_jax.vlms import qwen3_vl
from vla_jax.vlms.action_reader import small_reader
from vla_jax.vlms.deep_coupling import DeepCouplingConfig

BATCH, ROUNDS = 1, 11
SPACE = ActionSpace(
    form="delta_pose",
    horizon=8,
    dimensions=tuple(Dimension(name=f"a{i}", unit="") for i in range(7)),
    proprio=tuple(Dimension(name=f"p{i}", unit="") for i in range(7)),
)


def twin() -> deepvision_vla.DeepvisionVlaConfig:
    """The paper's proportions: 36 layers became 12, of which 4 are coupled and 5 guide; 1024 patches of the expert."""
    sizes = {"width": 128, "num_layers": 6, "num_heads": 8, "mlp_width": 512}
    expert = Dinov3Config(**sizes, patch_size=4, image_size=128, remat="none")
    return deepvision_vla.DeepvisionVlaConfig(
        action_space=SPACE,
        vlm=qwen3_vl.small(image_size=128, patch_size=8, width=256, num_layers=12),
        expert=expert,
        expert_image_size=128,
        reader=small_reader(128),
        integration=DeepCouplingConfig(num_layers=4, reference_layers=tuple(range(2, 7))),
    )


def without_map():
    """Scores that cost nothing, in the map's place."""

    def look(config, rows, mask):
        shape = (rows.stop - rows.start, rows.columns[1] - rows.columns[0])
        return lambda found: jnp.zeros((len(found.query), *shape))

    return mock.patch.object(pruning, "look", look)


def step(structure: Structure, parameters: Any, batch: Batch) -> Any:
    def loss(parameters):
        policy: Any = structure.merge(parameters)
        return policy.loss(batch, key=None).total

    return jax.value_and_grad(loss)(parameters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true")
    full = parser.parse_args().full
    nnx.set_graph_mode(False)
    nnx.set_graph_updates(False)
    config = twin()
    structure, parameters = split(config.build(nnx.Rngs(0)))
    batch = _random(batch_shapes(config.data_requirements(), BATCH))
    with_map = _compile(structure, parameters, batch)
    counted = [_count(structure, parameters, batch)]
    with without_map():
        without = _compile(structure, parameters, batch)
        counted.append(_count(structure, parameters, batch))
    seconds: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for times, compiled in zip(seconds, (with_map, without)):
            started = time.perf_counter()
            jax.block_until_ready(compiled(parameters, batch))
            times.append(time.perf_counter() - started)
    medians = [statistics.median(times) for times in seconds]
    print(f"twin: {medians[0]:.3f} s a step with the map, {medians[1]:.3f} without: +{medians[0] / medians[1] - 1:.1%}")
    print(f"twin: {counted[0] / 1e9:.2f} GFLOP a step with the map: +{counted[0] / counted[1] - 1:.2%}")
    if full:
        _count_full()


def _compile(structure: Structure, parameters: Any, batch: Batch) -> Any:
    return jax.jit(lambda *arguments: step(structure, *arguments)).lower(parameters, batch).compile()


def _count_full() -> None:
    config = deepvision_vla.deepvision_vla(SPACE)
    structure = abstract(lambda: config.build(nnx.Rngs(0)))
    batch = batch_shapes(config.data_requirements(), 1)
    counts = [_count(structure, structure.shapes(), batch)]
    with without_map():
        counts.append(_count(structure, structure.shapes(), batch))
    print(f"paper's size: {counts[0] / 1e12:.3f} TFLOP a step with the map: +{counts[0] / counts[1] - 1:.3%}")


def _count(structure: Structure, parameters: Any, batch: Batch) -> int:
    return count_flops(lambda *arguments: step(structure, *arguments), parameters, batch).total


def _random(shapes: Batch) -> Batch:
    generator = np.random.default_rng(0)

    def draw(shape):
        if shape.dtype == jnp.bool:
            return jnp.ones(shape.shape, bool)
        if jnp.issubdtype(shape.dtype, jnp.integer):
            return jnp.asarray(generator.integers(0, 200, shape.shape), shape.dtype)
        return jnp.asarray(generator.normal(size=shape.shape), shape.dtype)

    return jax.tree.map(draw, shapes)


if __name__ == "__main__":
    main()
