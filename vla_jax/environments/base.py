"""What an environment is: the protocol that closed-loop evaluation and demonstrations share.

    with open_environment("tabletop", embodiment="arm", image_size=64) as environment:
        seen = environment.reset(task, initial_state)
        while not done:
            seen, done = environment.step(environment.native_action(pose, gripper))

Poses are the gripper's in the robot's base frame: x, y, z in metres, then a unit quaternion x, y, z, w. Openness: 1
open, 0 closed. Both as in `data_pipelines/schema.py`, so that a policy sees here what it saw in the data.
Axes: y x pixels, s state, a native action.
"""

import dataclasses
import importlib
import pkgutil
from types import ModuleType
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from vla_jax.environments import graphics
from vla_jax.types import InputError

SMALLEST_IMAGE, LARGEST_IMAGE = 8, 640
EVALUATION_STATES = 1_000_000
"""Initial states below it are for evaluation, those from it on for demonstrations: never the same scene in both."""


@dataclasses.dataclass(frozen=True)
class Observed:
    """What the robot senses at one step."""

    images: dict[str, UInt8[np.ndarray, "y x 3"]]
    """By camera slot; empty without a GL library."""
    pose: Float[np.ndarray, "7"]
    """Measured gripper pose, float32."""
    gripper: float
    """Measured openness."""
    state: Float[np.ndarray, "s"]
    """The embodiment's own proprio as its dataset records it, float32."""
    instruction: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvironmentSpec:
    name: str
    embodiment: str
    dataset: str
    """Whose statistics and conventions hold here: a module of `data_pipelines/datasets`."""
    rate_hertz: float
    cameras: dict[str, str]
    """Camera slot -> the environment's name of it."""
    action_dimensions: tuple[str, ...]
    state_dimensions: tuple[str, ...]
    suites: dict[str, tuple[str, ...]]
    """Suite -> its tasks' names, which are unique over all suites."""
    max_steps: dict[str, int]
    """By suite: a trial that is not done by then has failed."""


@runtime_checkable
class Environment(Protocol):
    spec: EnvironmentSpec

    def reset(self, task: str, initial_state: int) -> Observed:
        """Starts a trial. The scene and the phrasing of the instruction are a pure function of both arguments.

        Raises: InputError: no such task, or a negative initial state.
        """
        ...

    def native_action(self, pose: Float[np.ndarray, "7"], gripper: float) -> Float[np.ndarray, "a"]:
        """The environment's own action, float32, that commands an absolute target; limited to what one step allows."""
        ...

    def step(self, action: Float[np.ndarray, "a"]) -> tuple[Observed, bool]:
        """Executes one action for 1 / rate_hertz seconds; done: the task is fulfilled."""
        ...

    def render(self, camera: str, height: int, width: int) -> UInt8[np.ndarray, "y x 3"]:
        """A picture by the environment's own name of the camera."""
        ...

    def success(self) -> bool:
        """Whether the task is fulfilled now."""
        ...

    def score(self) -> float:
        """1: fulfilled; 0.5: partly at some time since the reset; 0 otherwise."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> "Environment": ...

    def __exit__(self, *_) -> None: ...


class Expert(Protocol):
    """Carries out one trial: `command`, the environment's step, `observe`, and so on until it is `finished`."""

    stride_metres: float
    """How far it moves in one step at most."""

    @property
    def finished(self) -> bool: ...

    def command(self) -> tuple[Float[np.ndarray, "7"], float]:
        """Absolute target pose in the base frame, and openness, for the next step."""
        ...

    def observe(self) -> None:
        """After each step."""
        ...


def open_environment(name: str, *, embodiment: str, image_size: int | None) -> Environment:
    """An environment ready for `reset`, with square pictures; `image_size=None`: state only, no GL library is needed.

    Raises: InputError: unknown name or embodiment, or pictures are wanted and no GL library works.
    """
    if image_size is not None:
        check_image_size(image_size)
    module = find_environment(name)
    if embodiment not in module.EMBODIMENTS:
        raise InputError(f"environment {name}: no embodiment {embodiment!r}; it has {sorted(module.EMBODIMENTS)}")
    if image_size is not None:
        graphics.require_backend()
    return module.build(embodiment, image_size)


def check_image_size(pixels: int) -> None:
    if not SMALLEST_IMAGE <= pixels <= LARGEST_IMAGE:
        raise InputError(f"image size {pixels}: {SMALLEST_IMAGE} to {LARGEST_IMAGE} pixels expected")


def find_environment(name: str) -> ModuleType:
    """The package of an environment: its `EMBODIMENTS`, `SUITES`, `build(embodiment, image_size)`, `build_expert`."""
    from vla_jax import environments

    known = sorted(info.name for info in pkgutil.iter_modules(environments.__path__) if info.ispkg)
    if name not in known:
        raise InputError(f"no environment {name!r}; there are {known}")
    return importlib.import_module(f"{environments.__name__}.{name}")
