"""What DFAF's choice saves: DFA-VLA's Model 5 against Model 2, which reads all tokens in all blocks, in one run.

    python -m benchmarks.pruning [--repeats N]

Counted at the paper's size, from shapes alone: the language model's FLOPs of one sample. Measured on a CPU-sized twin
with a long sequence (1,033 visual tokens, 16 blocks of which 2 come before the choice): the time of one `act`, one CPU
device, the two interleaved, medians. Exit status 1: a ratio below its bar.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import jax
from flax import nnx
from rich.console import Console
from rich.table import Table

from data_pipelines.action_spaces import delta_pose, relative_pose
from vla_jax.flops import count_flops
from vla_jax.parameters import abstract, split
from vla_jax.policies import dfa_vla
from vla_jax.policies.dfa_vla import DfaVlaConfig
from vla_jax.training.batch_shapes import observation_shapes

BARS = {"counted": 4.0, "measured": 2.5}
MODELS = {"model_2": dfa_vla.dfa_model2, "model_5": dfa_vla.dfa_vla}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    nnx.set_graph_mode(False)
    nnx.set_graph_updates(False)
    space = delta_pose.action_space(horizon=1, normalization="quantile")
    figures = {f"{name}_gigaflops": _language_gigaflops(make(space)) for name, make in MODELS.items()}
    runs = {name: _runner(_twin(2 if name == "model_2" else 5)) for name in MODELS}
    laps = [{name: _milliseconds(run) for name, run in runs.items()} for _ in range(options.repeats + 1)][1:]
    figures |= {f"{name}_ms": statistics.median(lap[name] for lap in laps) for name in runs}
    figures["counted_ratio"] = figures["model_2_gigaflops"] / figures["model_5_gigaflops"]
    figures["measured_ratio"] = figures["model_2_ms"] / figures["model_5_ms"]
    table = Table("figure", "value", title="Model 2 over Model 5")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:.2f}")
    Console().print(table)
    print(json.dumps(figures))
    if low := [name for name, bar in BARS.items() if figures[f"{name}_ratio"] < bar]:
        sys.exit(f"below the bar: {', '.join(f'{name} ({BARS[name]})' for name in low)}")


def _twin(model: int) -> DfaVlaConfig:
    space = relative_pose.action_space(horizon=4, normalization="quantile")
    return dfa_vla.dfa_vla_scratch(space, model, image_size=256, width=128, num_layers=16)


def _language_gigaflops(config: DfaVlaConfig) -> float:
    """All but the encoder and the projection. The action decoder's, less than 1 % of it, is among it."""
    structure = abstract(lambda: config.build(nnx.Rngs(0)))
    observation = observation_shapes(config.data_requirements(), batch_size=1)

    def count(function: Callable) -> int:
        return count_flops(lambda p, o: function(structure.merge(p), o), structure.shapes(), observation).total

    whole = count(lambda policy, seen: policy.act(seen))
    return (whole - count(lambda policy, seen: policy.mvsm(*policy.features(seen)).tokens)) / 1e9


def _runner(config: DfaVlaConfig) -> Callable[[], None]:
    structure, parameters = split(config.build(nnx.Rngs(0)))
    shapes = observation_shapes(config.data_requirements(), batch_size=1)
    observation = jax.tree.map(lambda leaf: jax.numpy.ones(leaf.shape, leaf.dtype), shapes)
    act = jax.jit(lambda parameters, observation: structure.merge(parameters).act(observation))
    return lambda: act(parameters, observation).block_until_ready()


def _milliseconds(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - started)


if __name__ == "__main__":
    main()
