"""Counts a recipe's parameters and FLOPs, from shapes alone: no weights, no data, no accelerator, seconds.

--dotted.key value after it changes the recipe, as in train.py, whose --help lists the keys. The forward pass is `act`
on one observation, the training step is the one that train.py runs, at the recipe's batch size.
"""

import argparse
import collections
import dataclasses
from pathlib import Path
from typing import Any, cast

import jax
from rich.console import Console
from rich.table import Table

from data_pipelines.cache import write_json
from data_pipelines.command_line import check_writable
from vla_jax import recipe
from vla_jax.config import RunConfig
from vla_jax.flops import Flops, count_flops
from vla_jax.planning import hlo
from vla_jax.planning.collectives import collectives
from vla_jax.planning.compilation import compile_step
from vla_jax.planning.topologies import Topology, topology
from vla_jax.policies.base import Policy
from vla_jax.sharding import MeshConfig
from vla_jax.training.batch_shapes import batch_shapes, observation_shapes
from vla_jax.training.program import Program, build_program
from vla_jax.training.state import TrainState
from vla_jax.types import Batch, Observation, Parameters

HELP = "parameters and FLOPs of a recipe, without computing anything"
MODULE_DEPTH = 2
"""Names of a parameter's path that say its module, e.g. `clip/vision`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="configs/NAME.py[:VARIANT]")
    parser.add_argument("--topology", metavar="CHIP:AxB", help="compile for this TPU pod: v5e:16x16, v5p:4x8x8, v6e:16x16")
    parser.add_argument("--hlo", type=Path, metavar="FILE", help="also write the compiled HLO here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.set_defaults(overrides=[])


def run(options: argparse.Namespace) -> int:
    jax.config.update("jax_platforms", "cpu")
    if options.json:
        check_writable("--json", options.json)
    config = recipe.override(recipe.load(options.config), options.overrides, program="python -m vla_jax plan")
    if options.topology:
        return _pod(config, topology(options.topology), options)
    plan = {"config": options.config, "topology": None} | figures(config)
    _print(plan)
    if options.json:
        write_json(options.json, plan)
    return 0


def _pod(config: RunConfig, pod: Topology, options: argparse.Namespace) -> int:
    found = compile_step(config, pod)
    if options.hlo:
        options.hlo.write_text(found.text)
    module = hlo.parse(found.text)
    traffic = collectives(module, pod.num_chips)
    console = Console()
    console.print(f"{pod}: {found.seconds:.0f} s ({found.cpu_seconds:.0f} of CPU), {found.peak_host_bytes / 2**30:.2f} GiB here")
    console.print(
        f"a chip: arguments {found.argument_bytes / 2**30:.3f} GiB, temporaries {found.temporary_bytes / 2**30:.3f}, "
        f"outputs {found.output_bytes / 2**30:.3f}, code {found.code_bytes / 2**30:.3f}"
    )
    sums: dict[tuple[str, ...], list[int]] = collections.defaultdict(lambda: [0, 0])
    for one in traffic.found:
        row = sums[one.kind, one.phase, one.layer, one.dtype, str(one.groups.shape[1])]
        row[0] += one.bytes * one.count
        row[1] += one.count
    table = Table("kind", "phase", "layer", "type", "chips", "GB a step", "count")
    for key, (size, count) in sorted(sums.items(), key=lambda item: -item[1][0]):
        table.add_row(*key, f"{size / 1e9:,.4f}", f"{count:,}")
    console.print(table)
    for text in traffic.unaccounted:
        console.print(f"not accounted for: {text}", highlight=False)
    return 0


def figures(config: RunConfig) -> dict[str, Any]:
    """`parameters` and `flops_per_sample` of `schemas/plan.json`."""
    program = build_program(config, MeshConfig().build(jax.devices()[:1]))
    forward, training = _forward(program), _training(program)
    return {
        "parameters": _parameters(program),
        "flops_per_sample": {
            "analytic": forward.total,
            "training": training.total / config.batch_size,
            "recomputed": training.recomputed / config.batch_size,
            "frozen": training.fixed / config.batch_size,
            "uncounted": list(dict.fromkeys(forward.uncounted + training.uncounted)),
        },
    }


def _parameters(program: Program) -> dict[str, Any]:
    total, trainable = collections.Counter[str](), collections.Counter[str]()
    for path, shape in program.structure.shapes().items():
        module = "/".join(path.split("/")[:-1][:MODULE_DEPTH]) or path
        total[module] += shape.size
        trainable[module] += shape.size if path in program.state.parameters else 0
    return {
        "total": total.total(),
        "trainable": trainable.total(),
        "modules": {module: {"total": total[module], "trainable": trainable[module]} for module in total},
    }


def _forward(program: Program) -> Flops:
    def act(parameters: Parameters, observation: Observation) -> jax.Array:
        return cast(Policy, program.structure.merge(parameters)).act(observation, key=jax.random.key(0))

    needs = program.config.policy.data_requirements()
    return count_flops(act, program.structure.shapes(), observation_shapes(needs, batch_size=1))


def _training(program: Program) -> Flops:
    """What is told apart as fixed is what no trainable parameter reaches."""

    def step(parameters: Parameters, state: TrainState, frozen: Parameters, batch: Batch) -> Any:
        return program.step(dataclasses.replace(state, parameters=parameters), frozen, batch)

    batch = batch_shapes(program.config.policy.data_requirements(), program.config.batch_size)
    return count_flops(step, program.state.parameters, program.state, program.frozen, batch)


def _print(plan: dict[str, Any]) -> None:
    console, parameters, flops = Console(), plan["parameters"], plan["flops_per_sample"]
    console.print(plan["config"], highlight=False)
    table = Table("parameters")
    table.add_column("total", justify="right")
    table.add_column("trainable", justify="right")
    for module, counts in [*parameters["modules"].items(), ("all", parameters)]:
        table.add_row(module, *(f"{counts[kind]:,}" for kind in ("total", "trainable")))
    console.print(table)
    table = Table("a sample")
    table.add_column("GFLOP", justify="right")
    rows = {
        "forward pass (act, one observation)": "analytic",
        "training step": "training",
        "  recomputed in the backward pass": "recomputed",
        "  untouched by what trains (frozen parts)": "frozen",
    }
    for label, key in rows.items():
        table.add_row(label, f"{flops[key] / 1e9:,.3f}")
    console.print(table)
    for place in flops["uncounted"]:
        console.print(f"It is more than that: {place} is not counted whole.", highlight=False)
