"""How a trained policy reads what robots sense, compiled: every step's pictures once, or whole windows again and again.

Both read an instruction once a trial. What is kept of past reading lies on the device, a row a robot; each call takes
it over (donated) and gives it back changed, in the shapes that it had.

A step token of EF-VLA rests on its step and the instruction alone, so it is exact to keep it. Not kept, for it would
not be exact: keys and values of the trunk over step tokens (its positions are those within the window, which moves on),
and of language models whose words stand behind the pictures or see them (OpenVLA, DFA-VLA, the Qwen3-VL policies).

Axes: b robots, w window, t text tokens, d width of what is read of them, e width of a step token, h horizon, a action.
Source: EF-VLA section 3.2 and its published inference code: a rolling cache of at most 12 step tokens f_t.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vla_jax.inference.history import gather
from vla_jax.nn import attention_kernels
from vla_jax.types import DataRequirements, Observation, Parameters


class SteppedPolicy(Protocol):
    """Its chunks rest on one token a step, each of which rests on that step and the instruction alone."""

    def read_instruction(self, ids: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> Float[Array, "b ..."]: ...

    def step_tokens(self, observation: Observation, text: Float[Array, "b _ d"]) -> Float[Array, "b w e"]: ...

    def act_on(self, tokens: Float[Array, "b w e"], timestep_mask: Bool[Array, "b w"]) -> Float[Array, "b h a"]: ...


class Kept(NamedTuple):
    """Of each robot."""

    text: Float[Array, "b ..."] | None
    """What was read of its instruction; None: the policy does not read it apart."""
    tokens: Float[Array, "b w e"] | None = None
    """Of its last steps, the newest last and padding before them or after them, as the window's anchor says."""
    num_steps: Int[Array, "b"] | None = None
    """How many there are."""


class Compiler:
    """Makes functions of a policy compiled ones. What is kept is their first input, and donated."""

    def __init__(self, merge: Callable[[Parameters], Any], parameters: Parameters):
        """Args: merge: parameters to the policy."""
        self._merge, self._parameters = merge, jax.device_put(parameters)
        self._kernels = attention_kernels.of_inference()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        compiled = jax.jit(self._kernels.around(self._on_parameters(function)), donate_argnums=1)
        return functools.partial(compiled, self._parameters)

    def shape(self, function: Callable[..., Any], *inputs: Any) -> jax.ShapeDtypeStruct:
        return jax.eval_shape(self._on_parameters(function), self._parameters, *inputs)

    def _on_parameters(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda parameters, *inputs: function(self._merge(parameters), *inputs)


class Reader(Protocol):
    requirements: DataRequirements
    """Of one call."""
    reads_every_step: bool

    def empty(self, num_robots: int) -> Kept: ...

    def start(self, kept: Kept, robot: int, ids: Int[np.ndarray, "1 t"], mask: Bool[np.ndarray, "1 t"]) -> Kept:
        """A new trial of one robot: what was kept of it is forgotten, its instruction is read."""
        ...

    def step(
        self, kept: Kept, observation: Observation, fresh: Bool[np.ndarray, "b"]
    ) -> tuple[Kept, Float[Array, "b h a"]]:
        """Normalised chunks. Args: fresh: the robots that have sensed something since the last call."""
        ...


class WindowReader:
    """Of a policy that has to see its window at once."""

    reads_every_step = False

    def __init__(self, compiler: Compiler, requirements: DataRequirements, *, reads_text: bool):
        """Args: reads_text: the policy has `read_instruction`, and `act` takes what it gives."""
        self.requirements, self._reads_text, self._compiler = requirements, reads_text, compiler
        self._start, self._step = compiler(_start), compiler(_read_windows)

    def empty(self, num_robots: int) -> Kept:
        return Kept(_no_text(self._compiler, self.requirements, num_robots) if self._reads_text else None)

    def start(self, kept: Kept, robot: int, ids: Int[np.ndarray, "1 t"], mask: Bool[np.ndarray, "1 t"]) -> Kept:
        return self._start(kept, robot, ids, mask) if self._reads_text else kept

    def step(
        self, kept: Kept, observation: Observation, fresh: Bool[np.ndarray, "b"]
    ) -> tuple[Kept, Float[Array, "b h a"]]:
        return self._step(kept, observation)


class StepReader:
    """Of a `SteppedPolicy`."""

    reads_every_step = True

    def __init__(self, compiler: Compiler, requirements: DataRequirements):
        self.requirements = dataclasses.replace(requirements, window=1)
        self._window, self._compiler = requirements.window, compiler
        is_last = requirements.window_anchor == "last"
        self._start, self._step = compiler(_start), compiler(functools.partial(_read_step, is_last=is_last))

    def empty(self, num_robots: int) -> Kept:
        text = _no_text(self._compiler, self.requirements, num_robots)
        nothing = _nothing(self.requirements, num_robots)
        token = self._compiler.shape(lambda policy, *inputs: policy.step_tokens(*inputs), nothing, text)
        tokens = jnp.zeros((num_robots, self._window, token.shape[-1]), token.dtype)
        return Kept(text, tokens, jnp.zeros(num_robots, jnp.int32))

    def start(self, kept: Kept, robot: int, ids: Int[np.ndarray, "1 t"], mask: Bool[np.ndarray, "1 t"]) -> Kept:
        return self._start(kept, robot, ids, mask)

    def step(
        self, kept: Kept, observation: Observation, fresh: Bool[np.ndarray, "b"]
    ) -> tuple[Kept, Float[Array, "b h a"]]:
        return self._step(kept, observation, fresh)


def reader(
    policy: Any, merge: Callable[[Parameters], Any], parameters: Parameters, requirements: DataRequirements
) -> Reader:
    """Args: policy: of any parameters; what it can do decides."""
    compiler = Compiler(merge, parameters)
    if all(hasattr(policy, name) for name in ("read_instruction", "step_tokens", "act_on")):
        return StepReader(compiler, requirements)
    return WindowReader(compiler, requirements, reads_text=hasattr(policy, "read_instruction"))


def _nothing(requirements: DataRequirements, num_robots: int) -> Observation:
    return gather([], (np.zeros((0, 0), np.int32), np.zeros((0, 0), bool)), requirements, num_robots)


def _no_text(compiler: Compiler, requirements: DataRequirements, num_robots: int) -> Float[Array, "b ..."]:
    nothing = _nothing(requirements, num_robots)
    inputs = (nothing.instruction_tokens, nothing.instruction_mask)
    text = compiler.shape(lambda policy, *inputs: policy.read_instruction(*inputs), *inputs)
    return jnp.zeros(text.shape, text.dtype)


def _start(policy: Any, kept: Kept, robot: Int[Array, ""], ids: Int[Array, "1 t"], mask: Bool[Array, "1 t"]) -> Kept:
    assert kept.text is not None
    text = kept.text.at[robot].set(policy.read_instruction(ids, mask)[0])
    if kept.tokens is None or kept.num_steps is None:
        return Kept(text)
    return Kept(text, kept.tokens.at[robot].set(0), kept.num_steps.at[robot].set(0))


def _read_windows(policy: Any, kept: Kept, observation: Observation) -> tuple[Kept, Float[Array, "b h a"]]:
    return kept, policy.act(observation) if kept.text is None else policy.act(observation, text=kept.text)


def _read_step(
    policy: SteppedPolicy, kept: Kept, observation: Observation, fresh: Bool[Array, "b"], *, is_last: bool
) -> tuple[Kept, Float[Array, "b h a"]]:
    assert kept.text is not None
    assert kept.tokens is not None
    assert kept.num_steps is not None
    window, places = kept.tokens.shape[1], jnp.arange(kept.tokens.shape[1])
    moves_on = (kept.num_steps == window) | is_last
    tokens = jnp.where(moves_on[:, None, None], jnp.roll(kept.tokens, -1, axis=1), kept.tokens)
    place = jnp.where(moves_on, window - 1, kept.num_steps)
    new = policy.step_tokens(observation, kept.text)
    tokens = jnp.where((places == place[:, None])[..., None], new, tokens)
    tokens = jnp.where(fresh[:, None, None], tokens, kept.tokens)
    num_steps = jnp.minimum(kept.num_steps + fresh, window)
    mask = places >= window - num_steps[:, None] if is_last else places < num_steps[:, None]
    return Kept(kept.text, tokens, num_steps), policy.act_on(tokens, mask)
