"""The text of a compiled HLO module, read into computations and instructions, with how often each of them runs.

`compiled.as_text()` is the one thing that says what a program does on a pod that is not there. XLA's own
`cost_analysis` counts the body of a loop once; here every computation has its number of runs.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator

from vla_jax.planning.loops import trip_count

BYTES = {
    **dict.fromkeys(("pred", "s8", "u8"), 1.0),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 2.0),
    **dict.fromkeys(("s32", "u32", "f32"), 4.0),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8.0),
    **dict.fromkeys(("s4", "u4", "f4e2m1fn"), 0.5),
    **dict.fromkeys(("s2", "u2"), 0.25),
    "c128": 16.0,
}
"""Of an element; an f8 of any kind has one, a token none."""

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_COMMENT = re.compile(r"/\*.*?\*/")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_FRAME = re.compile(r"stack_frame_id=(\d+)")


@dataclasses.dataclass(frozen=True)
class Shape:
    dtype: str
    sizes: tuple[int, ...]
    space: int = 0
    """Memory space; 0 is HBM."""

    @property
    def bytes(self) -> int:
        each = BYTES.get(self.dtype, 1.0 if self.dtype.startswith("f8") else 0.0)
        return math.ceil(math.prod(self.sizes) * each)


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    opcode: str
    shape: str
    """As written."""
    operands: tuple[str, ...]
    literal: str
    """What stands between the brackets, where it is no operand: of `constant` and `parameter`."""
    attributes: str

    @functools.cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """The arrays of it, of a tuple in order."""
        return shapes(self.shape)

    def attribute(self, name: str) -> str | None:
        """Up to the next comma outside brackets."""
        found = re.search(rf"(?:^|[ ,]){name}=", self.attributes)
        return None if found is None else next(_split(self.attributes[found.end() :]), None)

    @property
    def op_name(self) -> str:
        found = _OP_NAME.search(self.attributes)
        return found[1] if found else ""

    @property
    def stack_frame(self) -> int | None:
        found = _FRAME.search(self.attributes)
        return int(found[1]) if found else None


@dataclasses.dataclass(frozen=True)
class Computation:
    name: str
    instructions: dict[str, Instruction]
    root: Instruction

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        return {int(i.literal): i for i in self.instructions.values() if i.opcode == "parameter"}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Who reads each instruction."""
        found: dict[str, list[Instruction]] = collections.defaultdict(list)
        for instruction in self.instructions.values():
            for name in dict.fromkeys(instruction.operands):
                found[name].append(instruction)
        return found


@dataclasses.dataclass(frozen=True)
class Module:
    entry: str
    computations: dict[str, Computation]
    frames: "Frames"

    def operands(self, computation: Computation, instruction: Instruction) -> list[Instruction]:
        return [computation.instructions[name] for name in instruction.operands if name in computation.instructions]

    def called(self, instruction: Instruction) -> list[str]:
        """The computations that an instruction runs; those that only add two numbers in a reduction are no such."""
        if instruction.opcode in ("async-update", "async-done"):
            return []
        names = [instruction.attribute("calls")]
        if instruction.opcode == "call":
            names.append(instruction.attribute("to_apply"))
        if instruction.opcode == "conditional":
            branches = instruction.attribute("branch_computations") or ""
            names += re.findall(r"[\w.\-]+", branches)
            names += [instruction.attribute("true_computation"), instruction.attribute("false_computation")]
        if instruction.opcode == "while":
            names += [instruction.attribute("body"), instruction.attribute("condition")]
        return [name.strip("%{} ") for name in names if name]

    @functools.cached_property
    def trips(self) -> dict[str, int | None]:
        """Rounds of every loop, by the name of its `while`; None: not to be found out."""
        return {
            instruction.name: trip_count(self, computation, instruction)
            for computation in self.computations.values()
            for instruction in computation.instructions.values()
            if instruction.opcode == "while"
        }

    @functools.cached_property
    def runs(self) -> dict[str, int]:
        """How often a step runs each computation that it reaches. Of a conditional every branch counts, and a loop of
        unknown length counts one round: `in_unknown_loops` has them.
        """
        counts: dict[str, int] = dict.fromkeys(self.computations, 0)
        counts[self.entry] = 1
        for name in self._callers_first():
            for instruction in self.computations[name].instructions.values():
                for called in self.called(instruction):
                    counts[called] += counts[name] * (self.trips.get(instruction.name, 1) or 1)
        return {name: count for name, count in counts.items() if count}

    @functools.cached_property
    def in_unknown_loops(self) -> frozenset[str]:
        """Computations whose number of runs is not known."""
        unknown: set[str] = set()
        for name in self._callers_first():
            for instruction in self.computations[name].instructions.values():
                if name in unknown or self.trips.get(instruction.name, 1) is None:
                    unknown |= set(self.called(instruction))
        return frozenset(unknown)

    @functools.cached_property
    def fused(self) -> frozenset[str]:
        """Computations that are the inside of a fusion."""
        return frozenset(
            name
            for computation in self.computations.values()
            for instruction in computation.instructions.values()
            if instruction.opcode == "fusion"
            for name in self.called(instruction)
        )

    @functools.cached_property
    def callers(self) -> dict[str, tuple[str, Instruction]]:
        """An instruction that runs each computation, behind the name of the one that it stands in."""
        return {
            name: (computation.name, instruction)
            for computation in self.computations.values()
            for instruction in computation.instructions.values()
            for name in self.called(instruction)
        }

    def _callers_first(self) -> list[str]:
        order: list[str] = []
        seen: set[str] = set()

        def visit(name: str) -> None:
            if name in seen:
                return
            seen.add(name)
            for instruction in self.computations[name].instructions.values():
                for called in self.called(instruction):
                    visit(called)
            order.append(name)

        visit(self.entry)
        return order[::-1]


@dataclasses.dataclass(frozen=True)
class Frames:
    """The tables of source places at the head of the text."""

    files: dict[int, str]
    functions: dict[int, str]
    locations: dict[int, tuple[int, int]]
    """File, function."""
    parents: dict[int, tuple[int, int]]
    """Of a frame: its location, the frame that called it."""

    def stack(self, frame: int | None) -> Iterator[tuple[str, str]]:
        """(file, function) of the innermost call first."""
        seen: set[int] = set()
        while frame and frame in self.parents and frame not in seen:
            seen.add(frame)
            location, frame = self.parents[frame]
            file, function = self.locations.get(location, (0, 0))
            yield self.files.get(file, ""), self.functions.get(function, "")


def shapes(text: str) -> tuple[Shape, ...]:
    return tuple(
        Shape(dtype, tuple(int(size) for size in sizes.split(",") if size), int(space[1]) if space else 0)
        for dtype, sizes, layout in _SHAPE.findall(text)
        for space in [_SPACE.search(layout)]
    )


def parse(text: str) -> Module:
    computations: dict[str, Computation] = {}
    entry = name = ""
    instructions: dict[str, Instruction] = {}
    root: Instruction | None = None
    for line in _lines(text):
        if not line.startswith((" ", "}")):
            if head := _HEAD.match(line):
                name, instructions, root = head[2], {}, None
                entry = name if head[1] else entry
        elif line.startswith("}") and instructions:
            computations[name] = Computation(name, instructions, root or list(instructions.values())[-1])
            instructions = {}
        elif name and (found := _INSTRUCTION.match(line)):
            instruction = _instruction(found[2], _COMMENT.sub("", line[found.end() :]))
            instructions[instruction.name] = instruction
            root = instruction if found[1] else root
    assert entry in computations, "this is no text of a compiled module: it has no ENTRY"
    return Module(entry, computations, _frames(text))


def _lines(text: str) -> Iterator[str]:
    """Those of an instruction in one: a Pallas kernel's attributes run over several."""
    line = ""
    for following in text.splitlines():
        if line.startswith(" ") and not following.startswith(" ") and not re.match(r"}(?!})", following):
            line += following
        else:
            yield line
            line = following
    yield line


def _instruction(name: str, text: str) -> Instruction:
    """Args: text: from the shape on."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    shape, rest = text[:end], text[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    inside = rest[opening + 1 : closing]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(name, rest[:opening], shape, operands, "" if operands else inside, rest[closing + 1 :])


def _closing(text: str, opening: int) -> int:
    """Where the bracket at `opening` ends."""
    depth = 0
    for found in re.compile(r'[()]|"(?:[^"\\]|\\.)*"').finditer(text, opening):
        if found[0] in "()":
            depth += 1 if found[0] == "(" else -1
        if not depth:
            return found.start()
    raise AssertionError(f"an open bracket in {text[:200]}")


def _split(text: str) -> Iterator[str]:
    """At commas outside brackets and strings."""
    depth, start = 0, 0
    for found in re.finditer(r'[()\[\]{},]|"(?:[^"\\]|\\.)*"', text):
        if found[0] in "([{":
            depth += 1
        elif found[0] in ")]}":
            depth -= 1
        elif found[0] == "," and not depth:
            yield text[start : found.start()].strip()
            start = found.end()
    yield text[start:].strip()


def _frames(text: str) -> Frames:
    tables: dict[str, dict[int, str]] = collections.defaultdict(dict)
    title = ""
    for line in text[: text.find("\n%")].splitlines():
        if found := re.match(r"(\d+) (.*)", line):
            tables[title][int(found[1])] = found[2].strip('"')
        else:
            title = line
    locations = {key: _numbers(line) for key, line in tables["FileLocations"].items()}
    frames = {key: _numbers(line) for key, line in tables["StackFrames"].items()}
    return Frames(
        files=tables["FileNames"],
        functions=tables["FunctionNames"],
        locations={key: (found["file_name_id"], found["function_name_id"]) for key, found in locations.items()},
        # Written one too high: the outermost frame is not its own parent.
        parents={key: (found["file_location_id"], found["parent_frame_id"] - 1) for key, found in frames.items()},
    )


def _numbers(line: str) -> dict[str, int]:
    return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", line)}
