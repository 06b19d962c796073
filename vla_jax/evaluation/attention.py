"""Pictures of what each word looks at: attention from text tokens to patches (EF-VLA's Eq. 4), over the picture.

    OUT/attention_N.png      the first step of episode N: a row a camera and view, a column a token of the instruction

Views are what a policy says that it looks at by (EF-VLA: X_attn and X_out of CLIP, the paper's Figure 6), of one run or
of two, e.g. with CLIP frozen and fine-tuned (Figure 7). Axes: b batch, w window, t text tokens, r c rows and columns of
patches, y x pixels.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import matplotlib.figure
import numpy as np

from data_pipelines.episodes import Episodes, open_episodes
from data_pipelines.index.dataset_directory import read_directory
from vla_jax.run_directory import new_folder
from vla_jax.trained_policy import TrainedPolicy
from vla_jax.types import InputError, Observation, Parameters

MAX_WORDS = 12
HELD_OUT = ("val", "test")
Views = dict[str, dict[str, np.ndarray]]
"""By name, then camera slot: [b, w, t, r, c]."""


def evaluate(policies: dict[str, TrainedPolicy], dataset: Path, out: Path, *, split: str | None, num_pictures: int):
    """Writes `out`, whole or not at all. Args: policies: by the name that rows say; they read the same cameras."""
    splits = read_directory(dataset).splits
    split = split or next((name for name in HELD_OUT if name in splits), "train")
    if len({frozenset(_cameras(policy)) for policy in policies.values()}) != 1:
        cameras = {name: sorted(_cameras(policy)) for name, policy in policies.items()}
        raise InputError(f"--against: the runs read different cameras, {cameras}; their attention cannot be compared")
    with new_folder(out) as folder, tempfile.TemporaryDirectory(prefix="vla_jax_") as cache:
        several = len(policies) > 1
        views = {name: _views(policy) for name, policy in policies.items()}
        steps = {name: _open(policy, dataset, cache, split) for name, policy in policies.items()}
        for episode, observed in enumerate(zip(*(each.first_steps(num_pictures) for each in steps.values()))):
            found: Views = {}
            for (name, look), step in zip(views.items(), observed):
                own = look(step.observation)
                found |= {f"{view}\n{name}" if several else view: maps for view, maps in own.items()}
            first = next(iter(policies.values()))
            _draw(first, observed[0].observation, found, folder / f"attention_{episode}.png")


def draw(policy: TrainedPolicy, dataset: Path, out: Path, cache: Path) -> None:
    """The first step of the first held-out episode, into one picture."""
    (step,) = _open(policy, dataset, str(cache), "val").first_steps(1)
    _draw(policy, step.observation, _views(policy)(step.observation), out)


def _open(policy: TrainedPolicy, dataset: Path, cache: str, split: str) -> Episodes:
    return open_episodes(
        dataset,
        dataclasses.replace(policy.config.data, cache=cache, split=split),
        policy.config.policy.data_requirements(),
        policy.tokenizer,
        statistics=policy.statistics,
        batch_size=1,
    )


def _cameras(policy: TrainedPolicy) -> list[str]:
    return [camera.slot for camera in policy.config.policy.data_requirements().cameras]


def _draw(policy: TrainedPolicy, observation: Observation, views: Views, out: Path) -> None:
    """Rows by camera, then view."""
    ids = np.asarray(observation.instruction_tokens[0])
    words = np.flatnonzero(observation.instruction_mask[0])
    shown = [t for t in words if policy.tokenizer.decode(ids[t : t + 1])][:MAX_WORDS]
    rows = [(slot, name) for slot in _cameras(policy) for name in views if slot in views[name]]
    figure = matplotlib.figure.Figure(figsize=(1.5 * (1 + len(shown)), 1.7 * len(rows)))
    axes = figure.subplots(len(rows), 1 + len(shown), squeeze=False)
    for row, (slot, name) in zip(axes, rows):
        step = int(np.argmax(observation.timestep_mask[0]))  # windows that end at a step are padded before it
        picture, maps = observation.images[slot][0, step], views[name][slot][0]
        maps = maps[min(step, len(maps) - 1)]
        row[0].imshow(picture)
        row[0].set_title(f"{slot}: {name}" if len(views) > 1 else slot, fontsize=8)
        for axis, token in zip(row[1:], shown if len(maps) > 1 else shown[:1]):
            axis.imshow(picture.mean(-1), cmap="gray", alpha=0.6)
            extent = (-0.5, picture.shape[1] - 0.5, picture.shape[0] - 0.5, -0.5)
            map_of_token = maps[token] if len(maps) > 1 else maps[0]
            axis.imshow(map_of_token, cmap="inferno", alpha=0.6, extent=extent, interpolation="nearest")
            axis.set_title(policy.tokenizer.decode(ids[token : token + 1]).strip(), fontsize=8)
    for axis in axes.ravel():
        axis.axis("off")
    figure.savefig(out, dpi=130, bbox_inches="tight")


def _views(policy: TrainedPolicy) -> Callable[[Observation], Views]:
    def views(parameters: Parameters, observation: Observation) -> dict[str, dict[str, jax.Array]]:
        model: Any = policy.structure.merge(parameters)
        if hasattr(model, "attention_views"):
            return model.attention_views(observation)
        if not hasattr(model, "attention_maps"):
            raise InputError(f"{policy.path}: a {type(model).__name__} has no attention maps to draw")
        return {"attention": model.attention_maps(observation)}

    compiled = jax.jit(views)
    return lambda observation: jax.device_get(compiled(policy.stored.parameters, observation))
