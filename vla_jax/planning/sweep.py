"""Meshes and remat policies of a run on a pod, each compiled in a process of its own, and ranked.

A candidate is a list of options as train.py takes them. Those that do not divide, or whose state alone is larger than a
chip, are rows with their reason and are not compiled.
"""

import dataclasses
import itertools
import json
import subprocess
import sys
import tempfile
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from vla_jax.config import RunConfig
from vla_jax.planning.pod_plan import held_bytes
from vla_jax.planning.topologies import Topology
from vla_jax.sharding import MeshConfig
from vla_jax.training.program import build_program
from vla_jax.types import InputError

Options = tuple[str, ...]
REMAT = "remat"
"""Name of the fields that say what a stack keeps of its forward pass."""


def candidates(config: RunConfig, topology: Topology) -> list[Options]:
    """Meshes with the least tensor parallelism first, within them those that divide the state the most; of each the
    remat policies, all stacks alike, the most frugal first. Several slices go to `data`: only gradients cross them.
    """
    chips = topology.num_chips // topology.num_slices
    sizes = [size for size in range(1, chips + 1) if not chips % size]
    meshes = [
        ("--mesh.data", str(chips // fsdp // tensor), "--mesh.fsdp", str(fsdp), "--mesh.tensor", str(tensor))
        for tensor in sizes
        for fsdp in reversed(sizes)
        if not chips % (fsdp * tensor)
    ]
    slices = () if topology.num_slices == 1 else ("--mesh.data-slices", str(topology.num_slices))
    return [(*mesh, *slices, *remat) for mesh, remat in itertools.product(meshes, remat_options(config))]


def remat_options(config: RunConfig) -> list[Options]:
    """One for each policy that the recipe's stacks know, the last of them first: it keeps the least. A single empty one
    where there are none.
    """
    fields = list(_remat_fields(config.policy, "policy"))
    names = dict.fromkeys(name for _, known in fields for name in known)
    found = [
        tuple(part for key, known in fields if name in known for part in (f"--{key}", name)) for name in reversed(names)
    ]
    return found or [()]


def _remat_fields(config: Any, key: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Dotted key and known values of every remat field."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, inner = getattr(config, field.name), f"{key}.{field.name.replace('_', '-')}"
        if field.name == REMAT:
            yield inner, typing.get_args(hints[REMAT])
        elif dataclasses.is_dataclass(value):
            yield from _remat_fields(value, inner)


def refusal(config: RunConfig, devices: Sequence[jax.Device], topology: Topology) -> str | None:
    """Why a candidate need not be compiled."""
    try:
        program = build_program(config, config.mesh.build(list(devices)))
    except InputError as error:
        return str(error)
    held = sum(held_bytes(program).values())
    if held > topology.chip.hbm_bytes:
        return f"its state alone takes {held / 2**30:.1f} GiB a chip"
    return None


def is_hopeless(options: Options, plans: Mapping[Options, dict[str, Any]]) -> bool:
    """Whether the same mesh did not fit already with a policy that keeps less."""
    return any(plan.get("fits") is False and tried[:6] == options[:6] for tried, plan in plans.items())


def compile_apart(command: Sequence[str], options: Options) -> dict[str, Any]:
    """The plan of a candidate, by this command line in another process; where that fails, its reason."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.json"
        line = [sys.executable, "-m", "vla_jax", "plan", *command, *options, "--json", str(file)]
        ended = subprocess.run(line, capture_output=True, text=True)
        if file.is_file():
            return json.loads(file.read_text())
    said = [text for text in ended.stderr.splitlines() if text.strip()]
    return {"reason": said[-1] if said else f"the compiler's process ended with {ended.returncode}"}


def row(options: Options, plan: dict[str, Any]) -> dict[str, Any]:
    kept = ("mesh", "fits", "hbm_bytes_per_chip", "seconds_bound", "binding", "mfu_bound")
    found = {"options": list(options)} | {name: plan[name] for name in kept if name in plan}
    found |= {name: plan[name] for name in ("samples_per_second_per_chip", "compile_seconds", "reason") if name in plan}
    if plan.get("fits") is False:
        memory = plan["hbm_bytes_per_chip"]
        found["reason"] = f"needs {memory['total'] / 2**30:.1f} of {memory['limit'] / 2**30:.1f} GiB a chip"
    return found


def ranked(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By samples a second where nothing overlaps; what does not fit, or was refused, behind."""
    return sorted(rows, key=lambda one: (not one.get("fits", False), -one.get("samples_per_second_per_chip", [0])[0]))


def with_mesh(config: RunConfig, options: Options, topology: Topology) -> RunConfig:
    """The candidate's mesh alone; its other options do not change what it holds between steps."""
    data, fsdp, tensor = map(int, options[1:6:2])
    mesh = MeshConfig(data=data, fsdp=fsdp, tensor=tensor, data_slices=topology.num_slices)
    return dataclasses.replace(config, mesh=mesh)
