"""All that `plan --topology` says of a run on a pod, as the tree of `schemas/plan.json`."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vla_jax.config import RunConfig
from vla_jax.planning import hlo
from vla_jax.planning.collectives import Collective, collectives
from vla_jax.planning.compilation import Compilation, DoesNotFitError, compile_step
from vla_jax.planning.divisibility import replicated
from vla_jax.planning.epoch import dataset_steps
from vla_jax.planning.roofline import collective_seconds, coordinates, roofline
from vla_jax.planning.topologies import Topology
from vla_jax.planning.work import work
from vla_jax.training.program import Program, build_program

HOUR = 3600


def pod_plan(
    config: RunConfig, topology: Topology, devices: Sequence[jax.Device], flops_per_sample: dict[str, float]
) -> tuple[dict[str, Any], str]:
    """Args: devices: the topology's. flops_per_sample: `training` and `recomputed`, by `vla_jax.flops`.

    Returns: the tree, and the text of the compiled HLO.
    """
    program = build_program(config, config.mesh.build(list(devices)))
    start = {
        "topology": str(topology),
        "mesh": dict(program.mesh.shape),
        "chips": topology.num_chips,
        "batch_size": config.batch_size,
        "replicated": [dataclasses.asdict(one) for one in replicated(program)],
    }
    held = held_bytes(program)
    try:
        compilation = compile_step(program)
    except DoesNotFitError as error:
        sizes = {"arguments": sum(held.values()), "temporaries": error.needed}
        memory = held | sizes | {"total": sum(sizes.values()), "limit": error.usable}
        return start | {"fits": False, "hbm_bytes_per_chip": memory}, ""
    memory = held | {
        "arguments": compilation.argument_bytes,
        "temporaries": compilation.temporary_bytes,
        "outputs": compilation.output_bytes,
        "code": compilation.code_bytes,
        "total": compilation.total_bytes,
        "limit": int(topology.chip.hbm_bytes),
    }
    found = _measured(program, topology, compilation, flops_per_sample)
    host = {
        "compile_seconds": compilation.seconds,
        "compile_cpu_seconds": compilation.cpu_seconds,
        "peak_host_bytes": compilation.peak_host_bytes,
    }
    fits = {"fits": memory["total"] <= memory["limit"], "hbm_bytes_per_chip": memory}
    return start | fits | found | host, compilation.text


def _measured(
    program: Program, topology: Topology, compilation: Compilation, flops_per_sample: dict[str, float]
) -> dict[str, Any]:
    config, chips = program.config, topology.num_chips
    module = hlo.parse(compilation.text)
    traffic, done = collectives(module, compilation.text, chips), work(module)
    places = coordinates(list(program.mesh.devices.flat), topology.chip.num_axes)
    seconds = {one.name: one.count * collective_seconds(one, topology, places) for one in traffic.found}
    bounds = roofline(topology.chip, flops=done.flops, hbm_bytes=done.hbm_bytes, interconnect=sum(seconds.values()))
    least, most = bounds.seconds
    model = (flops_per_sample["training"] - flops_per_sample["recomputed"]) * config.batch_size / chips
    rates = [config.batch_size / chips / step for step in (most, least)]
    return {
        "flops_per_step_per_chip": {
            "compiled": done.flops,
            "analytic": flops_per_sample["training"] * config.batch_size / chips,
            "uncounted": list(done.uncounted),
        },
        "hbm_traffic_bytes_per_chip": done.hbm_bytes,
        "collectives": _table(program, traffic.found, seconds),
        "gradient_reduction": _gradient_reduction(program, traffic.found),
        "unaccounted_collectives": len(traffic.unaccounted),
        "unaccounted": list(traffic.unaccounted),
        "seconds_bound": dataclasses.asdict(bounds),
        "binding": bounds.binding,
        "mfu_bound": [model / step / topology.chip.flops for step in (most, least)],
        "samples_per_second_per_chip": rates,
        "epoch": _epoch(config, rates),
    }


def _table(program: Program, found: tuple[Collective, ...], seconds: dict[str, float]) -> list[dict[str, Any]]:
    """Summed over what is alike, the dearest first."""
    rows: dict[tuple[str, ...], dict[str, Any]] = collections.defaultdict(
        lambda: {"bytes": 0, "count": 0, "seconds": 0.0}
    )
    for one in found:
        row = rows[one.kind, one.layer, one.phase, mesh_axes(program, one), one.dtype]
        row["bytes"] += one.bytes * one.count
        row["count"] += one.count
        row["seconds"] += seconds[one.name]
    names = ("kind", "group", "phase", "axes", "dtype")
    table = [dict(zip(names, key, strict=True)) | row for key, row in rows.items()]
    return sorted(table, key=lambda row: (-row["seconds"], -row["bytes"]))


def mesh_axes(program: Program, collective: Collective) -> str:
    """The axes of the mesh along which the chips of a group differ, e.g. `data+fsdp`."""
    shape = program.mesh.shape
    numbers = np.array(np.unravel_index(collective.groups, tuple(shape.values())))
    differs = (numbers != numbers[..., :1]).any(axis=(1, 2))
    return "+".join(axis for axis, is_spanned in zip(shape, differs) if is_spanned) or "none"


def _gradient_reduction(program: Program, found: tuple[Collective, ...]) -> dict[str, int]:
    """Bytes of gradients that leave the backward pass by each kind: of whole tensors, along data and fsdp."""
    sums = {"reduce_scatter": 0, "all_reduce": 0}
    for one in found:
        kind, axes = one.kind.replace("-", "_"), set(mesh_axes(program, one).split("+"))
        if one.phase == "backward" and kind in sums and axes <= {"data", "fsdp"}:
            sums[kind] += one.bytes * one.count
    return sums


def held_bytes(program: Program) -> dict[str, int]:
    """What a chip holds between steps."""
    state = program.state
    return {
        "parameters": _bytes_of_a_chip(state.parameters),
        "optimizer": _bytes_of_a_chip(state.optimizer),
        "ema": _bytes_of_a_chip(state.ema),
        "frozen": _bytes_of_a_chip(program.frozen),
    }


def _bytes_of_a_chip(tree: Any) -> int:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    return sum(int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize for leaf in leaves)


def _epoch(config: RunConfig, rates: list[float]) -> dict[str, Any]:
    """Chip-hours of one pass over as many samples as the mixture's datasets have steps, and of the whole run."""
    steps = dataset_steps(config.data)
    unknown = [name for name, count in steps.items() if count is None]
    samples = None if unknown or not steps else sum(count for count in steps.values() if count is not None)
    run = config.num_steps * config.batch_size

    def hours(number: int | None) -> list[float] | None:
        return None if number is None else [number / rate / HOUR for rate in rates[::-1]]

    return {
        "samples": samples,
        "chip_hours": hours(samples),
        "unindexed": unknown,
        "run_samples": run,
        "run_chip_hours": hours(run),
    }
