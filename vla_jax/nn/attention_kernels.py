"""What computes attention: XLA anywhere, cuDNN's flash attention on a GPU, splash on a TPU; and which of them when.

Axes: b batch, q queries, k keys, h heads, g heads of keys and values (h a multiple of g), f head width.

A program says once what it runs on: `AttentionKernels(...).around(function)` is what it compiles, and every `attend`
that is traced inside asks `chosen`. Layers, models and their configurations know nothing of it, for the choice belongs
to the hardware. Outside of such a program it is XLA, and so it is wherever a call asks what a kernel cannot do:

    kernel   platform   dtype               head width       mask                  bias, soft cap   shortest, if "auto"
    xla      any        any                 any              any                   both             -
    cudnn    gpu        bfloat16, float16   8 to 128, by 8   any                   neither          128 queries, keys
    splash   tpu        any                 any              none, or `SelfMask`   soft cap         512 queries, keys

"auto" takes the platform's kernel for calls of that length or more; "cudnn" and "splash" take it for all that it can
do. Each decision that falls back is logged once. The lengths are not measured: below them the scores are small beside
the activations, and splash pads to 128. cuDNN reads booleans as a bias [b, 1, q, k] in the dtype of the queries.

All give the same to rounding in rows of valid positions. Rows of padding differ: they see valid positions with XLA and
cuDNN, other padding with splash. Nobody reads them. On a CPU splash is interpreted, which is for tests.
Splash itself is in `splash.py`.
"""

import contextvars
import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vla_jax.types import InputError, Mask, SelfMask

Kernel = Literal["xla", "cudnn", "splash"]
Choice = Literal["auto", "xla", "cudnn", "splash"]
PLATFORM_KERNEL: dict[str, Kernel] = {"gpu": "cudnn", "tpu": "splash"}
SHORTEST: dict[Kernel, int] = {"cudnn": 128, "splash": 512}

logger = logging.getLogger(__name__)
_active: contextvars.ContextVar["AttentionKernels | None"] = contextvars.ContextVar("attention_kernels", default=None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionKernels:
    """What the attention of one program may run on."""

    choice: Choice = "auto"
    platform: str
    """That the program is compiled for: `cpu`, `gpu` or `tpu`."""
    spread: Callable[[Callable], Callable] | None = None
    """Makes a function of arrays [b, n, h, f] and [b, n] one that each device runs on its rows and heads. None: there
    is one device. XLA and cuDNN are divided by the compiler and do not need it."""
    rows: int | None = None
    """Of pictures that go through a layer of a tower together; None: all. Two fill a processor's cache, and a layer of
    CLIP-L takes a sixth less than with eight of them; gradients of its weights would have to be added up. Where it is
    set and nothing masks scores, heads attend one by one, for the same reason: a twelfth less again."""

    def __post_init__(self):
        runs_on = {"cudnn": ("gpu",), "splash": ("tpu", "cpu")}.get(self.choice, (self.platform,))
        if self.platform not in runs_on:
            raise InputError(f"attention={self.choice!r} runs on {runs_on[0]}, not on {self.platform}; use 'auto'")

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, traced with these kernels. To be jitted itself: what was traced before is not traced again."""

        @functools.wraps(function)
        def traced(*arguments, **options):
            token = _active.set(self)
            try:
                return function(*arguments, **options)
            finally:
                _active.reset(token)

        return traced


def of_inference() -> AttentionKernels:
    """Of a program without gradients, on the devices that JAX takes by itself."""
    platform = jax.default_backend()
    return AttentionKernels(platform=platform, rows=2 if platform == "cpu" else None)


class Call(NamedTuple):
    """What a choice rests on."""

    num_queries: int
    num_keys: int
    head_width: int
    dtype: str
    mask: Literal["none", "self", "dense"]
    bias: bool = False
    soft_cap: bool = False


def call(query: Array, key: Array, mask: Mask | None, bias: Array | None, soft_cap: float | None) -> Call:
    kind: Literal["none", "self", "dense"] = "none" if mask is None else "dense"
    if isinstance(mask, SelfMask):
        kind = "self"
    return Call(
        query.shape[1], key.shape[1], query.shape[3], query.dtype.name, kind, bias is not None, soft_cap is not None
    )


def active() -> AttentionKernels | None:
    """Of the program that is being traced."""
    return _active.get()


def chosen(kernels: AttentionKernels | None, call: Call) -> Kernel:
    if kernels is None:
        return "xla"
    wanted = PLATFORM_KERNEL.get(kernels.platform, "xla") if kernels.choice == "auto" else kernels.choice
    if wanted == "xla":
        return "xla"
    reason = _refusal(wanted, call)
    if reason is None and kernels.choice == "auto" and min(call.num_queries, call.num_keys) < SHORTEST[wanted]:
        reason = f"it is shorter than {SHORTEST[wanted]}"
    if reason is None:
        return wanted
    _say(f"attention by xla, not by {wanted}, of {call}: {reason}")
    return "xla"


def _refusal(kernel: Kernel, call: Call) -> str | None:
    """Why a kernel cannot do it."""
    if call.bias:
        return "it has a bias"
    if kernel == "splash":
        return "its mask is booleans" if call.mask == "dense" else None
    if call.dtype not in ("bfloat16", "float16"):
        return "only bfloat16 and float16 can"
    if call.soft_cap:
        return "it has a soft cap"
    if call.head_width % 8 or call.head_width > 128:
        return "its head width is no multiple of 8 up to 128"
    return None


@functools.cache
def _say(line: str) -> None:
    logger.info(line)


# ---------------------------------------------------------------------------------------------
# XLA.


def xla(
    query: Float[Array, "b q h f"],
    key: Float[Array, "b k g f"],
    value: Float[Array, "b k g f"],
    mask: Bool[Array, "..."] | None = None,
    bias: Float[Array, "b h q k"] | None = None,
    soft_cap: float | None = None,
) -> Float[Array, "b q h f"]:
    (batch, _, heads, width), groups = query.shape, key.shape[2]
    # Heads stand in front, and rows are divided by their sums after the second product: half the time on a CPU.
    rows = query.reshape(batch, -1, groups, heads // groups, width).swapaxes(1, 2).reshape(batch, groups, -1, width)
    keys, values = key.transpose(0, 2, 3, 1), value.swapaxes(1, 2)
    kernels = active()
    if kernels is not None and kernels.rows is not None and mask is None and bias is None:

        def one(head: tuple[Array, Array, Array]) -> Array:
            return _attended(*head, lambda scores: _capped(scores, soft_cap))

        each = (array.reshape(-1, *array.shape[2:]) for array in (rows, keys, values))
        attended = jax.lax.map(one, tuple(each))
    else:
        shape = (batch, groups, -1, heads // groups, keys.shape[-1])

        def changed(scores: Array) -> Array:
            scores = _capped(scores, soft_cap).reshape(shape)
            if bias is not None:
                scores = scores + bias.reshape(batch, groups, -1, *bias.shape[2:]).swapaxes(2, 3)
            if mask is not None:
                seen = mask[:, None] if mask.ndim == 2 else mask[:, None, :, None]
                scores = jnp.where(seen, scores, jnp.finfo(jnp.float32).min)
            return scores.reshape(*rows.shape[:-1], -1)

        attended = _attended(rows, keys, values, changed)
    return attended.reshape(batch, groups, -1, heads // groups, width).swapaxes(1, 2).reshape(query.shape)


def _attended(
    rows: Float[Array, "*b n f"],
    keys: Float[Array, "*b f k"],
    values: Float[Array, "*b k f"],
    changed: Callable[[Array], Array],
) -> Float[Array, "*b n f"]:
    """Args: changed: the scores' change before their softmax."""
    scores = changed(jnp.matmul(rows, keys, preferred_element_type=jnp.float32) * rows.shape[-1] ** -0.5)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    attended = jnp.matmul(weights.astype(values.dtype), values, preferred_element_type=jnp.float32)
    return (attended / weights.sum(axis=-1, keepdims=True)).astype(values.dtype)


def _capped(scores: Float[Array, "..."], cap: float | None) -> Float[Array, "..."]:
    return scores if cap is None else cap * jnp.tanh(scores / cap)


# ---------------------------------------------------------------------------------------------
# cuDNN.


def cudnn(
    query: Float[Array, "b q h f"],
    key: Float[Array, "b k g f"],
    value: Float[Array, "b k g f"],
    mask: Bool[Array, "..."] | None = None,
) -> Float[Array, "b q h f"]:
    """Lengths are made even, as its backward pass asks."""
    (batch, num_queries), num_keys, lengths = query.shape[:2], key.shape[1], None
    odd_query, odd_key = num_queries % 2, num_keys % 2
    if mask is not None:
        mask = mask[None] if mask.ndim == 2 else mask
        mask = jnp.broadcast_to(mask, (len(mask), num_queries, num_keys))
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, odd_key)))
        mask = jnp.pad(mask, ((0, 0), (0, odd_query), (0, 0)), mode="edge")[:, None]
    elif odd_key:
        lengths = jnp.full(batch, num_keys, jnp.int32)
    attended = jax.nn.dot_product_attention(
        padded(query, odd_query),
        padded(key, odd_key),
        padded(value, odd_key),
        mask=mask,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    return attended[:, :num_queries]


def padded(array: Float[Array, "b n h f"], more: int) -> Float[Array, "b n2 h f"]:
    return jnp.pad(array, ((0, 0), (0, more), (0, 0), (0, 0))) if more else array
