"""How often a loop of compiled HLO goes round.

XLA notes it beside loops whose counter it knows (`known_trip_count`); TPU's compiler drops the note. Then it follows
from the condition `counter < limit`, what the counter begins with and what a round adds to it.
"""

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from vla_jax.planning.hlo import Computation, Instruction, Module

_NOTE = re.compile(r'known_trip_count"?\s*[:=]\s*\{\s*"?n"?\s*[:=]\s*"?(\d+)')
_THROUGH = ("bitcast", "convert", "copy", "copy-start", "copy-done", "optimization-barrier", "reshape")
_ORDER = {"LT": (0, 1), "LE": (1, 1), "GT": (0, -1), "GE": (1, -1), "NE": (0, 1)}
"""Of a comparison: whether the limit itself still runs, and the sign of the steps."""


class Counted(NamedTuple):
    """An integer: the counter of the loop at the beginning of the round (or nothing, None) plus a number."""

    counter: int | None
    """Which element of the loop's tuple."""
    plus: int


def trip_count(module: "Module", computation: "Computation", loop: "Instruction") -> int | None:
    """Args: computation: the one that the loop stands in. None: not to be found out."""
    if note := _NOTE.search(loop.attributes):
        return int(note[1])
    condition, body = (module.computations[str(loop.attribute(name)).strip("%")] for name in ("condition", "body"))
    in_loop = _Evaluation(module, {})
    scope, root, inside = in_loop.unwrapped(condition, condition.root)
    if root.opcode != "compare" or root.attribute("direction") not in _ORDER:
        return None
    left, right = (inside.value(scope, name) for name in root.operands)
    if left is None or right is None or left.counter is None:
        return None
    start, step, limit = in_loop.start(computation, loop, left.counter), None, right
    if right.counter is not None:
        limit = in_loop.start(computation, loop, right.counter) if _is_kept(in_loop, body, right.counter) else None
    following = in_loop.element(body, body.root.name, left.counter)
    if following is not None and following.counter == left.counter:
        step = following.plus
    if start is None or step is None or limit is None or None not in (start.counter, limit.counter):
        return None
    return _rounds(start.plus + left.plus, step, limit.plus + (right.plus if right.counter is not None else 0), root)


def _rounds(start: int, step: int, limit: int, comparison: "Instruction") -> int | None:
    more, sign = _ORDER[str(comparison.attribute("direction"))]
    if step * sign <= 0:
        return None
    return max(0, -((start - limit - more * sign) * sign // abs(step)))


def _is_kept(evaluation: "_Evaluation", body: "Computation", element: int) -> bool:
    return evaluation.element(body, body.root.name, element) == Counted(element, 0)


class _Evaluation:
    def __init__(self, module: "Module", given: dict[int, Counted | None], *, in_fusion: bool = False):
        self.module, self.given, self.in_fusion = module, given, in_fusion

    def unwrapped(self, scope: "Computation", root: "Instruction"):
        """What a fusion's root does, in the fusion's own scope."""
        if root.opcode != "fusion":
            return scope, root, self
        inner = self.inside(scope, root)
        called = self.module.computations[str(root.attribute("calls")).strip("%")]
        return inner.unwrapped(called, called.root)

    def inside(self, scope: "Computation", fusion: "Instruction") -> "_Evaluation":
        given = {number: self.value(scope, name) for number, name in enumerate(fusion.operands)}
        return _Evaluation(self.module, given, in_fusion=True)

    def start(self, scope: "Computation", loop: "Instruction", element: int) -> Counted | None:
        """What an element of the loop's tuple begins with."""
        return _Evaluation(self.module, {}, in_fusion=True).element(scope, loop.operands[0], element)

    def value(self, scope: "Computation", name: str) -> Counted | None:
        instruction = scope.instructions.get(name)
        if instruction is None:
            return None
        if instruction.opcode == "constant":
            return Counted(None, int(instruction.literal)) if re.fullmatch(r"-?\d+", instruction.literal) else None
        if instruction.opcode == "parameter":
            return self.given.get(int(instruction.literal))
        if instruction.opcode in _THROUGH:
            return self.value(scope, instruction.operands[0])
        if instruction.opcode in ("add", "subtract"):
            return self._sum(scope, instruction)
        if instruction.opcode == "fusion":
            called = self.module.computations[str(instruction.attribute("calls")).strip("%")]
            return self.inside(scope, instruction).value(called, called.root.name)
        if instruction.opcode == "get-tuple-element":
            return self.element(scope, instruction.operands[0], int(instruction.attribute("index") or 0))
        return None

    def element(self, scope: "Computation", name: str, index: int) -> Counted | None:
        """One of a tuple."""
        instruction = scope.instructions[name]
        if instruction.opcode == "tuple":
            return self.value(scope, instruction.operands[index])
        if instruction.opcode == "parameter" and not self.in_fusion:
            return Counted(index, 0)
        if instruction.opcode == "fusion":
            called = self.module.computations[str(instruction.attribute("calls")).strip("%")]
            return self.inside(scope, instruction).element(called, called.root.name, index)
        if instruction.opcode in _THROUGH:
            return self.element(scope, instruction.operands[0], index)
        return None

    def _sum(self, scope: "Computation", instruction: "Instruction") -> Counted | None:
        left, right = (self.value(scope, name) for name in instruction.operands)
        if left is None or right is None or (left.counter is not None and right.counter is not None):
            return None
        if instruction.opcode == "subtract":
            return Counted(left.counter, left.plus - right.plus) if right.counter is None else None
        return Counted(left.counter if right.counter is None else right.counter, left.plus + right.plus)
