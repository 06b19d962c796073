"""FLOPs of a function, counted on its jaxpr: nothing is computed, allocated or compiled.

Two a multiply-add of every matrix product and convolution; what costs little beside them (norms, softmax, additions)
counts nothing, as is usual. Work whose result is not used is left out, as compilers do. The body of a `scan` counts as
often as it runs, of a `cond` the dearest branch counts, of a `shard_map` every device's part. Zeros that a convolution
pads with are counted, those that it puts between pixels (a transposed convolution) are not.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import source_info_util
from jax.extend.core import Jaxpr, JaxprEqn, Literal, jaxprs_in_params
from jax.interpreters.partial_eval import dce_jaxpr

RECOMPUTATION = "rematted_computation"
"""How `jax.checkpoint` names what it does again in the backward pass."""
KERNELS = ("pallas_call", "ffi_call", "custom_call", "ragged_dot_general", "dot_product_attention")
"""Beginnings of the names of primitives that may hold products which this module does not see."""


@dataclasses.dataclass(frozen=True)
class Flops:
    total: int = 0
    recomputed: int = 0
    """Of the total: done a second time in the backward pass, to spare memory."""
    fixed: int = 0
    """Of the total: rests on none of the followed arguments. The forward pass of frozen parts, for instance."""
    uncounted: tuple[str, ...] = ()
    """Where the total is too low: loops of unknown length, counted as one round, and kernels, counted as nothing."""

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(
            total=self.total + other.total,
            recomputed=self.recomputed + other.recomputed,
            fixed=self.fixed + other.fixed,
            uncounted=tuple(dict.fromkeys(self.uncounted + other.uncounted)),
        )

    def times(self, count: int) -> "Flops":
        return Flops(self.total * count, self.recomputed * count, self.fixed * count, self.uncounted)


def count_flops(function: Callable, *arguments: Any, follow: int = 0) -> Flops:
    """Args: arguments: pytrees of arrays or of their shapes. follow: number of the argument whose reach decides what is
    `fixed`.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    followed = [number == follow for number, tree in enumerate(arguments) for _ in jax.tree.leaves(tree)]
    used, is_used = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _walk(used, [is_reached for is_reached, keep in zip(followed, is_used) if keep], again=False)[0]


Reached = Sequence[bool]
"""Of a jaxpr's or an equation's variables: whether they rest on a followed argument."""


def _walk(jaxpr: Jaxpr, inputs: Reached, *, again: bool) -> tuple[Flops, list[bool]]:
    """Args: again: whether all of it is recomputation. Returns: its FLOPs, and which outputs are reached."""
    reached, flops = dict(zip(jaxpr.invars, inputs)), Flops()

    def is_reached(variable) -> bool:
        return not isinstance(variable, Literal) and reached.get(variable, False)

    for equation in jaxpr.eqns:
        is_again = again or RECOMPUTATION in str(equation.source_info.name_stack)
        own, outputs = _equation(equation, [is_reached(variable) for variable in equation.invars], again=is_again)
        flops += own
        reached |= zip(equation.outvars, outputs)
    return flops, [is_reached(variable) for variable in jaxpr.outvars]


def _equation(equation: JaxprEqn, inputs: Reached, *, again: bool) -> tuple[Flops, Reached]:
    name, outputs = equation.primitive.name, [any(inputs)] * len(equation.outvars)
    if name in _PRODUCTS:
        work = _PRODUCTS[name](equation)
        return Flops(work, recomputed=work if again else 0, fixed=0 if any(inputs) else work), outputs
    if name in _CONTROL:
        return _CONTROL[name](equation, inputs, again)
    if name.startswith(KERNELS):
        return Flops(uncounted=(_place(equation, "kernel"),)), outputs
    inner = list(jaxprs_in_params(equation.params))
    if len(inner) == 1 and len(inner[0].invars) == len(inputs):  # jit, checkpoint, custom_jvp, custom_vjp, ...
        return _walk(inner[0], inputs, again=again)
    if any(_walk(jaxpr, [True] * len(jaxpr.invars), again=again)[0] != Flops() for jaxpr in inner):
        return Flops(uncounted=(_place(equation, "operation"),)), outputs
    return Flops(), outputs


def _scan(equation: JaxprEqn, inputs: Reached, again: bool) -> tuple[Flops, Reached]:
    body, num_consts, num_carry = (equation.params[key] for key in ("jaxpr", "num_consts", "num_carry"))
    flops, outputs = _loop(body.jaxpr, inputs, slice(num_consts, num_consts + num_carry), again)
    return flops.times(equation.params["length"]), outputs


def _while(equation: JaxprEqn, inputs: Reached, again: bool) -> tuple[Flops, Reached]:
    num_condition = equation.params["cond_nconsts"]
    num_body, body = equation.params["body_nconsts"], equation.params["body_jaxpr"].jaxpr
    flops, outputs = _loop(body, inputs[num_condition:], slice(num_body, len(body.invars)), again)
    if flops.total:
        flops += Flops(uncounted=(_place(equation, "loop"),))
    return flops, outputs


def _loop(body: Jaxpr, inputs: Reached, carry: slice, again: bool) -> tuple[Flops, Reached]:
    """One round, once all that any round reaches is known."""
    known = list(inputs)
    while True:
        flops, outputs = _walk(body, known, again=again)
        carried = [before or after for before, after in zip(known[carry], outputs)]
        if carried == known[carry]:
            return flops, outputs
        known[carry] = carried


def _cond(equation: JaxprEqn, inputs: Reached, again: bool) -> tuple[Flops, Reached]:
    branches = [_walk(branch.jaxpr, inputs[1:], again=again) for branch in equation.params["branches"]]
    dearest = max((flops for flops, _ in branches), key=lambda flops: flops.total)
    uncounted = sum((Flops(uncounted=flops.uncounted) for flops, _ in branches), Flops())
    return dearest + uncounted, [inputs[0] or any(outputs) for outputs in zip(*(outputs for _, outputs in branches))]


def _shard_map(equation: JaxprEqn, inputs: Reached, again: bool) -> tuple[Flops, Reached]:
    sizes = dict(equation.params["mesh"].shape)
    flops, outputs = _walk(equation.params["jaxpr"], inputs, again=again)
    return flops.times(math.prod(sizes[axis] for axis in equation.params["newly_manual_axes"])), outputs


def _dot_general(equation: JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, out = _array(equation.invars[0]), _array(equation.outvars[0])
    return 2 * out.size * math.prod(left.shape[axis] for axis in contracted)


def _convolution(equation: JaxprEqn) -> int:
    kernel, out = _array(equation.invars[1]), _array(equation.outvars[0])
    out_features = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
    zeros_between = math.prod(equation.params["lhs_dilation"])
    return 2 * out.size * kernel.size // (out_features * zeros_between)


def _array(variable: Any) -> jax.core.ShapedArray:
    return variable.aval


def _place(equation: JaxprEqn, kind: str) -> str:
    return f"{kind} {equation.primitive.name} at {source_info_util.summarize(equation.source_info)}"


_PRODUCTS = {"dot_general": _dot_general, "conv_general_dilated": _convolution}
_CONTROL = {"scan": _scan, "while": _while, "cond": _cond, "shard_map": _shard_map}
