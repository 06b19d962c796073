"""One trial of a scripted expert, recorded as an RLDS episode.

A step holds what was seen, and the action that was then executed, noise included. Axes: time.
"""

import dataclasses
import zlib
from collections.abc import Callable

import numpy as np
import simplejpeg

from data_pipelines.index.dataset_directory import Feature
from data_pipelines.writer import Episode
from vla_jax.environments.base import Environment, EnvironmentSpec, Expert, Observed

JPEG_QUALITY = 95
BOOL, FLOAT, LONG = (Feature("number", (), dtype) for dtype in ("bool", "float32", "int64"))
TEXT = Feature("text")


@dataclasses.dataclass(frozen=True)
class Trial:
    """What is to be attempted."""

    suite: str
    task: str
    initial_state: int
    seed: int
    """Of the whole dataset."""
    noise: float
    """Standard deviation of the noise on each axis of a commanded position, in strides of the expert."""


def features(spec: EnvironmentSpec, image_size: int) -> dict[str, Feature]:
    cameras = {_camera(slot): Feature("image", (image_size, image_size, 3), "uint8") for slot in spec.cameras}
    return cameras | {
        "steps/observation/state": Feature("number", (len(spec.state_dimensions),), "float32"),
        "steps/action": Feature("number", (len(spec.action_dimensions),), "float32"),
        "steps/language_instruction": TEXT,
        "steps/reward": FLOAT,
        "steps/discount": FLOAT,
        "steps/is_first": BOOL,
        "steps/is_last": BOOL,
        "steps/is_terminal": BOOL,
        "episode_metadata/embodiment": TEXT,
        "episode_metadata/suite": TEXT,
        "episode_metadata/task": TEXT,
        "episode_metadata/success": BOOL,
        "episode_metadata/seed": LONG,
        "episode_metadata/initial_state": LONG,
        "episode_metadata/noise": FLOAT,
    }


def record(environment: Environment, build_expert: Callable[[Environment], Expert], trial: Trial) -> Episode | None:
    """The episode; None where the expert failed. `build_expert` gives the expert of the present trial."""
    generator = np.random.default_rng([zlib.crc32(trial.task.encode()), trial.initial_state, zlib.crc32(b"noise")])
    seen = [environment.reset(trial.task, trial.initial_state)]
    expert = build_expert(environment)
    actions: list[np.ndarray] = []
    while not expert.finished and len(actions) < environment.spec.max_steps[trial.suite]:
        pose, gripper = expert.command()
        pose[:3] += generator.normal(size=3) * trial.noise * expert.stride_metres
        actions.append(environment.native_action(pose, gripper))
        seen.append(environment.step(actions[-1])[0])
        expert.observe()
    if not (expert.finished and environment.success()):
        return None
    return _episode(environment.spec, trial, seen[:-1], actions)


def _episode(spec: EnvironmentSpec, trial: Trial, seen: list[Observed], actions: list[np.ndarray]) -> Episode:
    place = np.arange(len(actions))
    last = place == len(actions) - 1
    return {
        **{_camera(slot): [_jpeg(step.images[slot]) for step in seen] for slot in spec.cameras},
        "steps/observation/state": np.stack([step.state for step in seen]),
        "steps/action": np.stack(actions),
        "steps/language_instruction": [step.instruction for step in seen],
        "steps/reward": last.astype(np.float32),
        "steps/discount": np.ones(len(actions), np.float32),
        "steps/is_first": place == 0,
        "steps/is_last": last,
        "steps/is_terminal": last,
        "episode_metadata/embodiment": spec.embodiment,
        "episode_metadata/suite": trial.suite,
        "episode_metadata/task": trial.task,
        "episode_metadata/success": True,
        "episode_metadata/seed": trial.seed,
        "episode_metadata/initial_state": trial.initial_state,
        "episode_metadata/noise": trial.noise,
    }


def _camera(slot: str) -> str:
    return f"steps/observation/image_{slot}"


def _jpeg(picture: np.ndarray) -> bytes:
    """Colour at full resolution: blocks are a few pixels wide."""
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(picture), quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="444"
    )
