"""What the chips of a pod send one another in a step, from its compiled HLO.

Every kind of collective, alone, started and finished apart (`-start`, `-done`, `async-start`) or inside a fusion, with
the number of rounds of the loops around it. TPU's compiler writes a reduce-scatter as a fusion of an all-reduce with a
slice of its result: that is counted as what it is. What cannot be accounted for is named, never left out.

Axes: g groups, n chips of a group, k chips of the mesh.
"""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Int

from vla_jax.planning.hlo import Computation, Instruction, Module

GATHER_BY_SUM = "all-gather by all-reduce"
"""Each chip puts its part among zeros, and all are summed: how TPU's compiler gathers several small arrays at once. It
costs what an all-reduce does."""
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
OTHERS = ("ragged-all-to-all", "collective-broadcast", "send", "recv")
"""Known, but no program of ours has them: named as unaccounted rather than counted wrongly."""
_ANY = re.compile(rf"\s({'|'.join(KINDS + OTHERS)})(?:-start)?\(")
_MESH = re.compile(r"mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? ?\{([^}]*)\}")
_BODY = ("policies", "vlms", "encoders", "language", "fusion", "actions", "segmentation")
"""Rooms that name a layer group; `nn` is the same for all."""
_SLICES = ("dynamic-slice", "slice")


@dataclasses.dataclass(frozen=True)
class Collective:
    name: str
    kind: str
    bytes: int
    """Of one run, of the whole: what was gathered, or was to be reduced; of other kinds what a chip has before it."""
    count: int
    """Times a step."""
    groups: Int[np.ndarray, "g n"]
    """Chips by their number in the mesh; of `collective-permute` pairs of from and to."""
    layer: str
    """Where in the model, e.g. `language/decoder`; `optimizer` for what is outside the loss and its gradient."""
    phase: str
    """`forward`, `recomputed`, `backward` or `update`."""
    dtype: str


@dataclasses.dataclass(frozen=True)
class Collectives:
    found: tuple[Collective, ...]
    unaccounted: tuple[str, ...]


@dataclasses.dataclass
class _Reading:
    found: list[Collective] = dataclasses.field(default_factory=list)
    unaccounted: list[str] = dataclasses.field(default_factory=list)
    begun: set[str | None] = dataclasses.field(default_factory=set)
    """Channels of chains."""
    going_on: list[Instruction] = dataclasses.field(default_factory=list)
    """Later links of chains."""


def collectives(module: Module, text: str, num_chips: int) -> Collectives:
    """Args: text: of the module; what it names and the module lacks is unaccounted."""
    reading = _Reading()
    for computation in module.computations.values():
        for instruction in computation.instructions.values():
            if instruction.opcode.removesuffix("-start") in KINDS + OTHERS:
                _read(reading, module, computation, instruction, num_chips)
    unaccounted = reading.unaccounted + [
        f"{link.name}: a later link of a chain that nothing begins"
        for link in reading.going_on
        if link.attribute("channel_id") not in reading.begun
    ]
    read = len(reading.found) + len(reading.going_on) + len(reading.unaccounted)
    if (missed := len(_ANY.findall(text)) - read) > 0:
        unaccounted.append(f"{missed} more that the text names")
    return Collectives(tuple(reading.found), tuple(unaccounted))


def _read(
    reading: _Reading, module: Module, computation: Computation, instruction: Instruction, num_chips: int
) -> None:
    if "chain_id=" in instruction.attributes:
        if not _begins(computation):
            reading.going_on.append(instruction)
            return
        reading.begun.add(instruction.attribute("channel_id"))
    why = None
    if instruction.opcode.removesuffix("-start") in OTHERS:
        why = "its kind is not known to the planner"
    elif computation.name not in module.runs:
        why = f"nothing is known to run {computation.name}"
    elif computation.name in module.in_unknown_loops:
        why = "it is in a loop of unknown length"
    try:
        found = None if why else _collective(module, computation, instruction, num_chips)
    except ValueError as error:
        found, why = None, str(error)
    if found is None:
        reading.unaccounted.append(f"{instruction.name}: {why}")
    else:
        reading.found.append(found)


def _begins(computation: Computation) -> bool:
    """TPU's compiler may spread a collective over several fusions (a chain), beside whose products it runs. The first
    link stands in a fusion that starts it.
    """
    starts = [i.attribute("custom_call_target") for i in computation.instructions.values()]
    return '"AsyncCollectiveStart"' in starts


def _collective(module: Module, computation: Computation, instruction: Instruction, num_chips: int) -> Collective:
    kind = instruction.opcode.removesuffix("-start")
    if kind == "collective-permute":
        groups = _pairs(instruction)
    else:
        groups = replica_groups(_groups_text(instruction), num_chips)
    operands = module.operands(computation, instruction)
    sent = sum(shape.bytes for operand in operands for shape in operand.shapes)
    if not operands or len(operands) != len(instruction.operands):
        raise ValueError("its operands are not in the text")
    if kind == "all-reduce" and _is_sliced(module, computation, instruction, groups.shape[1]):
        kind = "reduce-scatter"
    elif kind == "all-reduce" and all(operand.opcode == "dynamic-update-slice" for operand in operands):
        kind = GATHER_BY_SUM
    layer, phase = _place(module, computation, instruction)
    return Collective(
        name=instruction.name,
        kind=kind,
        bytes=sent * groups.shape[1] if kind == "all-gather" else sent,
        count=module.runs.get(computation.name, 0),
        groups=groups,
        layer=layer,
        phase=phase,
        dtype="/".join(sorted({shape.dtype for operand in operands for shape in operand.shapes})),
    )


def _is_sliced(module: Module, computation: Computation, reduced: Instruction, ways: int) -> bool:
    """Whether all that leaves the fusion of an all-reduce is each chip's own part of the result."""
    if computation.name not in module.fused or ways == 1:
        return False
    whole = sum(shape.bytes for shape in reduced.shapes)
    out = sum(shape.bytes for shape in computation.root.shapes)
    return out * ways <= whole * 1.01 and any(i.opcode in _SLICES for i in computation.instructions.values())


def _place(module: Module, computation: Computation, instruction: Instruction) -> tuple[str, str]:
    """Layer group and phase, from what the collective itself says, what it reads, or what is around it."""
    for candidate in _near(module, computation, instruction):
        if candidate.op_name.startswith("jit("):
            return _layer(module, candidate), _phase(candidate.op_name)
    return "unnamed", "unnamed"


def _near(module: Module, computation: Computation, instruction: Instruction) -> Iterator[Instruction]:
    yield instruction
    for operand in module.operands(computation, instruction):
        yield operand
        yield from (i for name in module.called(operand) for i in module.computations[name].instructions.values())
    yield from (user for user in computation.instructions.values() if instruction.name in user.operands)
    yield from computation.instructions.values()
    name = computation.name
    while name in module.callers:  # a fusion, then the loop whose round it is a part of
        name, caller = module.callers[name]
        yield caller


def _layer(module: Module, instruction: Instruction) -> str:
    for file, _ in module.frames.stack(instruction.stack_frame):
        parts = PurePosixPath(file).parts
        if "vla_jax" in parts and len(parts) > (start := _last(parts, "vla_jax")) + 2 and parts[start + 1] in _BODY:
            return "/".join((*parts[start + 1 : -1], PurePosixPath(file).stem))
    return "other" if _phase(instruction.op_name) != "update" else "optimizer"


def _last(parts: tuple[str, ...], name: str) -> int:
    return len(parts) - 1 - parts[::-1].index(name)


def _phase(op_name: str) -> str:
    if "rematted_computation" in op_name:
        return "recomputed"
    if "transpose(" in op_name:
        return "backward"
    return "forward" if "jvp(" in op_name else "update"


def _pairs(instruction: Instruction) -> Int[np.ndarray, "g n"]:
    pairs = re.findall(r"\{(\d+),(\d+)\}", instruction.attribute("source_target_pairs") or "")
    if not pairs:
        raise ValueError("source_target_pairs are not readable")
    return np.array(pairs, int)


def _groups_text(instruction: Instruction) -> str:
    if mesh := _MESH.search(instruction.attributes):
        return mesh[0]
    return instruction.attribute("replica_groups") or "{}"


@functools.lru_cache(maxsize=256)
def replica_groups(text: str, num_chips: int) -> Int[np.ndarray, "g n"]:
    """Written as lists, `{{0,1},{2,3}}`; as a transposed iota, `[2,2]<=[2,2]T(1,0)`; or as axes of a mesh,
    `mesh['a'=2,'b'=2] {'b'}`, of which a part may be meant, `{'a':(1)2}`, and whose chips may be in another order,
    `mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}`. Empty: all chips together.
    """
    if text.replace(" ", "") in ("{}", "{{}}"):
        return np.arange(num_chips)[None]
    if mesh := _MESH.fullmatch(text):
        sizes = {name: int(size) for name, size in re.findall(r"'?([\w.]+)'?=(\d+)", mesh[1])}
        return _mesh_groups(sizes, _order(mesh[2] or "", math.prod(sizes.values())), mesh[3])
    if re.fullmatch(r"\{(\{[\d, ]+\},?\s*)+\}", text):
        groups = [_integers(group) for group in re.findall(r"\{([\d, ]+)\}", text)]
        if len({len(group) for group in groups}) > 1:
            raise ValueError(f"groups of unequal size: {text[:100]}")
        return np.array(groups)
    if found := re.fullmatch(r"\[([\d,]+)\]<=(.*)", text):
        return _order(found[2], num_chips).reshape(_integers(found[1]))
    raise ValueError(f"replica_groups={text[:100]} are not readable")


def _order(text: str, count: int) -> Int[np.ndarray, "k"]:
    """Of chips: `[2,4]T(1,0)`, an iota of that shape transposed; `0,2,1,3`; or as they are."""
    if not text:
        return np.arange(count)
    if iota := re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        chips = np.arange(math.prod(_integers(iota[1]))).reshape(_integers(iota[1]))
        return (chips.transpose(_integers(iota[2])) if iota[2] else chips).reshape(-1)
    if re.fullmatch(r"[\d, ]+", text):
        return np.array(_integers(text))
    raise ValueError(f"the order of chips {text[:100]} is not readable")


def _mesh_groups(sizes: dict[str, int], order: Int[np.ndarray, "k"], reduced: str) -> Int[np.ndarray, "g n"]:
    """Args: reduced: the axes along which the chips of a group lie."""
    wanted = re.findall(r"'?([A-Za-z_][\w.]*)'?(?::\((\d+)\)(\d+))?", reduced)
    if any(name not in sizes for name, _, _ in wanted):
        raise ValueError(f"mesh {sizes} {{{reduced}}} is not readable")
    parts: list[tuple[str, int, int]] = []  # axis, product of the axis's parts before this one, size
    for name, size in sizes.items():
        cuts = {1, size}
        for other, before, part in wanted:
            if other == name and before:
                cuts |= {int(before), int(before) * int(part)}
        parts += [(name, low, high // low) for low, high in itertools.pairwise(sorted(cuts))]
    inside = [
        number
        for name, before, part in wanted
        for number, (axis, low, _) in enumerate(parts)
        if axis == name and (not before or int(before) <= low < int(before) * int(part))
    ]
    outside = [number for number in range(len(parts)) if number not in inside]
    chips = order.reshape([size for _, _, size in parts]).transpose(outside + inside)
    return chips.reshape(-1, math.prod(parts[number][2] for number in inside))


def _integers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]
