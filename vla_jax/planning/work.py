"""Products and memory traffic of a chip in a step, from its compiled HLO, loops counted as often as they go round.

Products are counted as `vla_jax.flops` counts them on the jaxpr: two a multiply-add, of `dot` and `convolution`. TPU's
compiler writes every product as a convolution, batched ones with strides and dilations that pair each entry with its
own; so positions that fall on padding or between dilated pixels must not count, or attention would count many times
over. Memory: what each operation reads and writes in HBM, once; of an array of which a fusion reads or writes a slice,
the slice. Buffers that the compiler keeps on the chip (memory space 1 and above in the layout) cost nothing.
"""

import dataclasses
import json
import math
import re

import numpy as np

from vla_jax.planning.hlo import Computation, Instruction, Module, Shape

_FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"),
    *("partition-id", "replica-id", "optimization-barrier", "domain", "opt-barrier"),
)
_HARMLESS = re.compile(
    "AllocateBuffer|Assume|Sharding|SPMD|xla.sdy|annotate_device_placement|X64|MoveTo|Pin|Unpin|Create|LayoutConstraint"
    "|GatherScatterIndicesBitpacked|AsyncCollective|ConcatBitcast|PrepareAsyncCall"
)
"""Targets of custom calls that compute nothing."""
SPLASH_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}
"""Of queries with keys, and the like, in each of its kernels; both of the backward pass compute the scores again. As if
no block were skipped, padding included: the model's own count has neither."""
_READS_A_PART = ("dynamic-slice", "slice", "gather")


@dataclasses.dataclass(frozen=True)
class Work:
    flops: int
    hbm_bytes: int
    uncounted: tuple[str, ...]
    """Kernels that do not say what they cost."""


def work(module: Module) -> Work:
    flops, hbm_bytes, uncounted = 0, 0, []
    for name, runs in module.runs.items():
        computation = module.computations[name]
        for instruction in computation.instructions.values():
            if instruction.opcode == "custom-call" and not _HARMLESS.search(_target(instruction)):
                cost = _kernel_cost(computation, instruction)
                if cost is None:
                    uncounted.append(f"{instruction.name}: custom call {_target(instruction)}")
                flops += runs * (cost or 0)
            flops += runs * product_flops(computation, instruction)
            if name not in module.fused:
                hbm_bytes += runs * _traffic(module, computation, instruction)
    return Work(flops, hbm_bytes, tuple(uncounted))


def product_flops(computation: Computation, instruction: Instruction) -> int:
    if instruction.opcode == "dot":
        left = computation.instructions[instruction.operands[0]].shapes[0]
        contracted = _integers(instruction.attribute("lhs_contracting_dims") or "")
        return 2 * math.prod(instruction.shapes[0].sizes) * math.prod(left.sizes[axis] for axis in contracted)
    if instruction.opcode == "convolution":
        left, right = (computation.instructions[name].shapes[0] for name in instruction.operands)
        return _convolution_flops(instruction, left, right)
    return 0


def _convolution_flops(instruction: Instruction, left: Shape, right: Shape) -> int:
    """XLA's own count: only where a position of the window falls on an entry of the input."""
    labels = re.match(r"(\w+)_(\w+)->(\w+)", instruction.attribute("dim_labels") or "")
    assert labels, f"{instruction.name}: no dim_labels"
    of_input, of_kernel, of_output = labels[1], labels[2], labels[3]
    groups, batch_groups = (int(instruction.attribute(f"{kind}_group_count") or 1) for kind in ("feature", "batch"))
    window = _window(instruction.attribute("window") or "{}", len(of_input) - 2)
    positions = 1
    for axis, (stride, low, input_dilation, kernel_dilation) in enumerate(window):
        label = str(axis)
        out = instruction.shapes[0].sizes[of_output.index(label)]
        inside, size = left.sizes[of_input.index(label)], right.sizes[of_kernel.index(label)]
        place = np.arange(out)[:, None] * stride + np.arange(size)[None] * kernel_dilation - low
        is_entry = (place >= 0) & (place <= (inside - 1) * input_dilation) & (place % input_dilation == 0)
        positions *= int(is_entry.sum())
    features = left.sizes[of_input.index("f")] // groups * right.sizes[of_kernel.index("o")]
    return 2 * features * (left.sizes[of_input.index("b")] // batch_groups) * positions


def _window(text: str, num_axes: int) -> list[tuple[int, int, int, int]]:
    """Of each axis: stride, padding before, dilation of the input, of the kernel."""
    found = dict(re.findall(r"(\w+)=([\dx_\-]+)", text))

    def numbers(name: str, default: int) -> list[int]:
        return [int(part.split("_")[0]) for part in found[name].split("x")] if name in found else [default] * num_axes

    return list(zip(numbers("stride", 1), numbers("pad", 0), numbers("lhs_dilate", 1), numbers("rhs_dilate", 1)))


def _target(instruction: Instruction) -> str:
    return (instruction.attribute("custom_call_target") or "").strip('"')


def _kernel_cost(computation: Computation, instruction: Instruction) -> int | None:
    """FLOPs that a Pallas kernel was given (`cost_estimate`), or that splash is known to do."""
    found = re.search(r'"cost_estimate":(\{[^}]*\})', instruction.attributes.replace("\\", ""))
    if found:
        return int(json.loads(found[1]).get("flops", 0))
    splash = re.search("/splash_m[hq]a_(fwd|dq|dkv)", instruction.op_name)
    if splash is None:
        return None
    read = [computation.instructions[name].shapes[0] for name in instruction.operands]
    query, key = [shape.sizes for shape in read if len(shape.sizes) == 4][:2]
    return 2 * SPLASH_PRODUCTS[splash[1]] * math.prod(query) * key[-2]


def _traffic(module: Module, computation: Computation, instruction: Instruction) -> int:
    if instruction.opcode in _FREE or instruction.opcode.endswith(("-done", "-update")):
        return 0
    operands = module.operands(computation, instruction)
    if instruction.opcode == "fusion":
        return _fusion_traffic(module, instruction, operands)
    if instruction.opcode in _READS_A_PART:
        return 2 * _in_hbm(instruction)
    if instruction.opcode == "dynamic-update-slice":
        return 2 * _in_hbm(operands[1])
    if instruction.opcode in ("slice-start", "dynamic-slice-start"):
        source, *_, part = [shape for shape in instruction.shapes if shape.sizes]
        return part.bytes * ((not source.space) + (not part.space))
    if instruction.opcode.endswith("-start"):  # its shape holds the operands, too
        whole = sum(shape.bytes for shape in instruction.shapes if not shape.space and shape.sizes)
        return whole if instruction.opcode in ("copy-start", "all-gather-start") else 2 * sum(map(_in_hbm, operands))
    return sum(map(_in_hbm, operands)) + _in_hbm(instruction)


def _fusion_traffic(module: Module, instruction: Instruction, operands: list[Instruction]) -> int:
    inside = module.computations[module.called(instruction)[0]]
    total = 0
    for number, operand in enumerate(operands):
        parameter = inside.parameters.get(number)
        total += min(_in_hbm(operand), _read(module, inside, parameter) if parameter else 0)
    roots = [inside.root] * len(instruction.shapes)
    if inside.root.opcode == "tuple":
        roots = [inside.instructions[name] for name in inside.root.operands]
    return total + sum(_written(module, inside, root, shape) for shape, root in zip(instruction.shapes, roots))


def _written(module: Module, inside: Computation, root: Instruction, shape: Shape) -> int:
    """Of one output of a fusion."""
    if shape.space or root.opcode == "parameter":  # handed through
        return 0
    while root.opcode in ("bitcast", "fusion"):
        if root.opcode == "bitcast":
            root = inside.instructions[root.operands[0]]
        else:  # a fusion in a fusion
            inside = module.computations[module.called(root)[0]]
            root = inside.root
    if root.opcode == "dynamic-update-slice":  # into an array that otherwise stays
        return sum(part.bytes for part in inside.instructions[root.operands[1]].shapes)
    return shape.bytes


def _read(module: Module, inside: Computation, parameter: Instruction) -> int:
    """Of a fusion's operand: the whole, or the parts that are all that is read of it."""
    whole, parts = sum(shape.bytes for shape in parameter.shapes), 0
    users = [(parameter.name, user) for user in inside.users.get(parameter.name, ())]
    while users:
        name, user = users.pop()
        if user.opcode == "bitcast":
            users += [(user.name, further) for further in inside.users.get(user.name, ())]
        elif user.opcode in _READS_A_PART and user.operands[0] == name:
            parts += sum(shape.bytes for shape in user.shapes)
        elif user.opcode == "fusion":
            inner = module.computations[module.called(user)[0]]
            places = [number for number, operand in enumerate(user.operands) if operand == name]
            parts += sum(_read(module, inner, inner.parameters[number]) for number in places)
        elif user.opcode != "tuple" and not (user.opcode == "dynamic-update-slice" and user.operands[0] == name):
            return whole
    return min(parts, whole)


def _in_hbm(instruction: Instruction) -> int:
    return sum(shape.bytes for shape in instruction.shapes if not shape.space)


def _integers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]
