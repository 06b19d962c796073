"""Counts a recipe's parameters and FLOPs, from shapes alone: no weights, no data, no accelerator, seconds.

With --topology the training step that train.py runs is compiled for that TPU pod, minutes of all cores and a few
gigabytes here: memory of a chip, what chips send one another, and what the pod's peaks allow at best. --sweep tries
every mesh, and the remat policies of the recipe's stacks. --dotted.key value after it changes the recipe, as in
train.py, whose --help lists the keys. The forward pass is `act` on one observation. Exit codes: 0 done (and it fits), 2
bad input, 3 it does not fit.
"""

import argparse
import collections
import dataclasses
from pathlib import Path
from typing import Any, cast

import jax
from rich.console import Console

from data_pipelines.cache import write_json
from data_pipelines.command_line import check_writable, positive
from vla_jax import recipe
from vla_jax.config import RunConfig
from vla_jax.flops import Flops, count_flops
from vla_jax.planning.compilation import keep_little_memory
from vla_jax.planning.pod_plan import pod_plan
from vla_jax.planning.sweep import candidates, compile_apart, is_hopeless, ranked, refusal, row, with_mesh
from vla_jax.planning.tables import print_model, print_pod, print_sweep
from vla_jax.planning.topologies import Topology, topology
from vla_jax.policies.base import Policy
from vla_jax.sharding import MeshConfig
from vla_jax.training.batch_shapes import batch_shapes, observation_shapes
from vla_jax.training.program import Program, build_program
from vla_jax.training.state import TrainState
from vla_jax.types import Batch, InputError, Observation, Parameters

HELP = "parameters and FLOPs of a recipe; memory, traffic and bounds of its step on a TPU pod"
DOES_NOT_FIT = 3
MODULE_DEPTH = 2
"""Names of a parameter's path that say its module, e.g. `clip/vision`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="configs/NAME.py[:VARIANT]")
    parser.add_argument(
        "--topology",
        metavar="CHIP:AxB",
        help="compile for this TPU pod: v5e:16x16, v6e:16x16, v5p:4x8x8; 2*v5e:16x16 for two slices",
    )
    parser.add_argument("--sweep", action="store_true", help="rank the pod's meshes and the recipe's remat policies")
    parser.add_argument("--sweep-most", type=positive, metavar="N", help="compile the first N that may fit (all)")
    parser.add_argument("--hlo", type=Path, metavar="FILE", help="also write the text of the compiled step here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.set_defaults(overrides=[])


def run(options: argparse.Namespace) -> int:
    jax.config.update("jax_platforms", "cpu")
    for name in ("json", "hlo"):
        if file := getattr(options, name):
            check_writable(f"--{name}", file)
    if options.topology is None and (options.sweep or options.hlo):
        raise InputError(f"--{'sweep' if options.sweep else 'hlo'}: it is of --topology, which is not given")
    pod = None if options.topology is None else topology(options.topology)
    config = recipe.override(recipe.load(options.config), options.overrides, program="python -m vla_jax plan")
    console, plan = Console(), {"config": options.config, "topology": None}
    if pod is not None and options.sweep:
        plan |= _swept(console, config, pod, options)
    elif pod is not None:
        keep_little_memory()
        devices = pod.devices()
        plan |= figures(config)
        found, text = pod_plan(config, pod, devices, plan["flops_per_sample"])
        plan |= found
        if options.hlo:
            options.hlo.write_text(text)
    else:
        plan |= figures(config)
    console.print(plan["config"], highlight=False)
    print_model(console, plan)
    if pod is not None:
        print_pod(console, plan)
    if options.json:
        write_json(options.json, plan)
    return DOES_NOT_FIT if plan.get("fits") is False else 0


def _swept(console: Console, config: RunConfig, pod: Topology, options: argparse.Namespace) -> dict[str, Any]:
    """The best candidate's plan, and a row of every one."""
    devices, rows = pod.devices(), []
    plans: dict[tuple[str, ...], dict[str, Any]] = {}
    command = ["--config", options.config, "--topology", options.topology, *_without_mesh(options.overrides)]
    for candidate in candidates(config, pod):
        reason = refusal(with_mesh(config, candidate, pod), devices, pod)
        if reason is None and is_hopeless(candidate, plans):
            reason = "this mesh does not fit with a remat policy that keeps less"
        if reason is None and options.sweep_most is not None and len(plans) >= options.sweep_most:
            reason = f"not tried: --sweep-most {options.sweep_most}"
        if reason is None:
            with console.status(f"compiling {' '.join(candidate)}"):
                plans[candidate] = compile_apart(command, candidate)
            console.print(f"compiled {' '.join(candidate)}", highlight=False)
        rows.append(row(candidate, plans[candidate] if reason is None else {"reason": reason}))
    rows = ranked(rows)
    print_sweep(console, rows)
    best = plans.get(tuple(rows[0]["options"]), {})
    if not best.get("fits"):
        raise InputError(f"--sweep: none of {len(rows)} candidates fits {pod}; their reasons stand above")
    return best | {"sweep": rows}


def _without_mesh(overrides: list[str]) -> list[str]:
    """The sweep gives its own."""
    kept, is_value = [], False
    for text in overrides:
        is_mesh = text.startswith("--mesh.")
        if not is_mesh and not is_value:
            kept.append(text)
        is_value = is_mesh and "=" not in text
    return kept


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
