"""Low-rank adapters on chosen linear layers: y = x W + b + (alpha / rank) (x A) B, with W and b frozen.

Axes: i in, o out, r rank; stacked layers have a leading `layers` axis.
Source: Hu et al. 2021 (LoRA), section 4.1; A starts as `peft` draws it (uniform within 1 / sqrt(in)), B at zero, so an
adapted model begins as the model that it adapts. Differs from `peft`: no dropout in front of A.

The parameters of an adapted layer keep their paths; `lora_a` and `lora_b` join them.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from vla_jax.nn.replacement import replace_linears
from vla_jax.types import InputError

NAMES = ("lora_a", "lora_b")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    targets: tuple[str, ...]
    """Regular expressions; a linear layer whose whole module path matches one is adapted, e.g.
    `clip/.*/attention/(query|value)`. In a stack all layers are."""
    rank: int = 32
    alpha: float = 16.0
    trained: tuple[str, ...] = ()
    """Regular expressions; parameters whose whole path matches one train in full beside, e.g. `head/.*`. All others
    are frozen."""

    def __post_init__(self):
        if self.rank < 1 or not self.alpha > 0:
            raise InputError(
                f"lora: rank={self.rank}, alpha={self.alpha}: a rank of 1 or more, a positive alpha expected"
            )
        if not self.targets:
            raise InputError("lora.targets is empty; name the linear layers to adapt, or leave lora out")
        for pattern in self.targets + self.trained:
            try:
                re.compile(pattern)
            except re.error as error:
                raise InputError(f"lora: {pattern!r} is no regular expression ({error})") from error

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def continues(self, other: "LoraConfig") -> bool:
        """Whether adapters of `other` may train on as these."""
        return (self.targets, self.rank, self.alpha) == (other.targets, other.rank, other.alpha)

    def apply(self, module: nnx.Module, rngs: nnx.Rngs) -> None:
        """Adapts a built module in place. Raises InputError where a target matches nothing."""
        replace_linears(module, self.targets, lambda linear: LoraLinear(linear, self, rngs=rngs), option="lora.targets")

    def trainable(self, paths: Iterable[str], frozen: frozenset[str]) -> frozenset[str]:
        """The adapters and what trains in full. Args: frozen: what the policy itself freezes, adapters aside."""
        paths = list(paths)
        adapters = {path for path in paths if is_adapter(path)}
        adapted = {path.rpartition("/")[0] for path in adapters}
        chosen: set[str] = set()
        for pattern in self.trained:
            hits = {path for path in paths if re.fullmatch(pattern, path)} - adapters
            if not hits:
                raise InputError(
                    f"lora.trained: no parameter matches {pattern!r}; there are, e.g., {sorted(paths)[:5]}"
                )
            if fixed := sorted(hits & frozen):
                raise InputError(
                    f"lora.trained: {pattern!r} matches {fixed[:3]}, which the policy freezes; leave it out"
                )
            if twice := sorted(path for path in hits if path.rpartition("/")[0] in adapted):
                raise InputError(
                    f"lora.trained: {pattern!r} matches {twice[:3]}, which lora.targets adapts; choose one"
                )
            chosen |= hits
        return frozenset(adapters | chosen)

    def merge(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters of the model without adapters that computes the same; the sum is made in float32."""
        merged = {path: array for path, array in parameters.items() if not is_adapter(path)}
        for path in parameters:
            layer, _, name = path.rpartition("/")
            if name == NAMES[0]:
                kernel, b = parameters[f"{layer}/kernel"], parameters[f"{layer}/{NAMES[1]}"]
                merged[f"{layer}/kernel"] = _merged(kernel, parameters[path], b, self.scale)
        return merged


def is_adapter(path: str) -> bool:
    return path.rpartition("/")[2] in NAMES


class LoraLinear(nnx.Module):
    """Stands in for `linear`, whose parameters it takes over."""

    def __init__(self, linear: nnx.Linear, config: LoraConfig, *, rngs: nnx.Rngs):
        self.kernel, self.bias = linear.kernel, linear.bias
        self.scale = config.scale
        *stacked, in_width, out_width = linear.kernel.shape
        bound = in_width**-0.5
        a = jax.random.uniform(rngs.params(), (*stacked, in_width, config.rank), jnp.float32, -bound, bound)
        in_axis, out_axis = linear.kernel.get_metadata().get("logical_axes") or (None, None)
        self.lora_a = nnx.Param(a, logical_axes=(in_axis, None))
        self.lora_b = nnx.Param(jnp.zeros((*stacked, config.rank, out_width)), logical_axes=(None, out_axis))

    def __call__(self, x: Float[Array, "*rest i"]) -> Float[Array, "*rest o"]:
        y = x @ self.kernel[...] + self.scale * ((x @ self.lora_a[...]) @ self.lora_b[...])
        return y if self.bias is None else y + self.bias[...]


def _merged(kernel: Any, a: Any, b: Any, scale: float) -> Any:
    """On the host for numpy arrays, else where the arrays lie; in the kernel's dtype."""
    if not isinstance(kernel, jax.Array):
        wide = [np.asarray(array).astype(np.float32) for array in (kernel, a, b)]
        return (wide[0] + np.float32(scale) * (wide[1] @ wide[2])).astype(kernel.dtype)
    wide = [array.astype(jnp.float32) for array in (kernel, a, b)]
    product = jnp.matmul(wide[1], wide[2], precision=jax.lax.Precision.HIGHEST)
    return (wide[0] + scale * product).astype(kernel.dtype)
