"""What a policy that reads each step by itself keeps of past steps: an instruction and each picture are read once.

Axes: b robots, w window, e width of a step token, h horizon, a action.
Source: EF-VLA section 3.2 and its published inference code: a rolling cache of at most 12 step tokens f_t.
"""

import dataclasses
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vla_jax.types import DataRequirements, Observation, Parameters


class SteppedPolicy(Protocol):
    """Its chunks rest on one token a step, each of which rests on that step and the instruction alone."""

    def read_instruction(self, ids: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> Float[Array, "b _ d"]: ...

    def step_tokens(self, observation: Observation, text: Float[Array, "b _ d"]) -> Float[Array, "b w e"]: ...

    def act_on(self, tokens: Float[Array, "b w e"], timestep_mask: Bool[Array, "b w"]) -> Float[Array, "b h a"]: ...


class StepReader:
    """A stepped policy's parts, compiled."""

    def __init__(self, merge: Callable[[Parameters], Any], parameters: Parameters):
        """Args: merge: parameters to the policy."""
        self._parameters = parameters
        self._read_instruction = jax.jit(lambda parameters, *inputs: merge(parameters).read_instruction(*inputs))
        self._step_tokens = jax.jit(lambda parameters, *inputs: merge(parameters).step_tokens(*inputs))
        self._act_on = jax.jit(lambda parameters, *inputs: merge(parameters).act_on(*inputs))

    def instruction(self, ids: Int[np.ndarray, "b t"], mask: Bool[np.ndarray, "b t"]) -> Float[np.ndarray, "b _ d"]:
        return np.asarray(self._read_instruction(self._parameters, ids, mask))

    def tokens(self, observation: Observation, text: Float[np.ndarray, "b _ d"]) -> Float[np.ndarray, "b e"]:
        """Of one step: the observation's window is 1."""
        return np.asarray(self._step_tokens(self._parameters, observation, text))[:, 0]

    def act(self, tokens: Float[np.ndarray, "b w e"], mask: Bool[np.ndarray, "b w"]) -> Float[np.ndarray, "b h a"]:
        """Normalised chunks."""
        return np.asarray(self._act_on(self._parameters, tokens, mask))


class StepCache:
    """Of one robot: the tokens of its last steps."""

    def __init__(self, requirements: DataRequirements):
        self._anchor, self._window = requirements.window_anchor, requirements.window
        self._tokens: deque[np.ndarray] = deque(maxlen=requirements.window)

    def add(self, token: Float[np.ndarray, " e"]) -> None:
        self._tokens.append(token)

    def window(self) -> tuple[Float[np.ndarray, "w e"], Bool[np.ndarray, " w"]]:
        """Padded on the side that the anchor leaves to it."""
        missing = self._window - len(self._tokens)
        padding = (0, missing) if self._anchor == "first" else (missing, 0)
        mask = np.pad(np.ones(len(self._tokens), bool), padding)
        return np.pad(np.stack(self._tokens), (padding, (0, 0))), mask


def one_step(requirements: DataRequirements) -> DataRequirements:
    """What a single step is read from."""
    return dataclasses.replace(requirements, window=1)
