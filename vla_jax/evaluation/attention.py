"""Pictures of what each word looks at: EF-VLA's Eq. 4 attention from text tokens to patches, over the picture.

Axes: t text tokens, y x pixels.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import matplotlib.figure
import numpy as np

from data_pipelines.episodes import open_episodes
from vla_jax.trained_policy import TrainedPolicy
from vla_jax.types import InputError, Observation, Parameters

MAX_WORDS = 12


def draw(policy: TrainedPolicy, dataset: Path, out: Path, cache: Path) -> None:
    """The first step of the first held-out episode: one row a camera, one column a token of the instruction."""
    requirements = policy.config.policy.data_requirements()
    episodes = open_episodes(
        dataset,
        dataclasses.replace(policy.config.data, cache=str(cache), split="val"),
        requirements,
        policy.tokenizer,
        statistics=policy.statistics,
        batch_size=1,
    )
    observation = next(episodes.batches()).observation
    maps = _attention(policy)(observation)
    ids = np.asarray(observation.instruction_tokens[0])
    shown = [t for t in np.flatnonzero(observation.instruction_mask[0]) if policy.tokenizer.decode(ids[t : t + 1])]
    slots = [camera.slot for camera in requirements.cameras]
    figure = matplotlib.figure.Figure(figsize=(1.5 * (1 + min(len(shown), MAX_WORDS)), 1.7 * len(slots)))
    axes = figure.subplots(len(slots), 1 + min(len(shown), MAX_WORDS), squeeze=False)
    for row, slot in zip(axes, slots):
        picture = observation.images[slot][0, 0]
        row[0].imshow(picture)
        row[0].set_title(slot, fontsize=8)
        for axis, token in zip(row[1:], shown):
            axis.imshow(picture.mean(-1), cmap="gray", alpha=0.6)
            extent = (-0.5, picture.shape[1] - 0.5, picture.shape[0] - 0.5, -0.5)
            axis.imshow(maps[slot][0, 0, token], cmap="inferno", alpha=0.6, extent=extent, interpolation="nearest")
            axis.set_title(policy.tokenizer.decode(ids[token : token + 1]).strip(), fontsize=8)
    for axis in axes.ravel():
        axis.axis("off")
    figure.savefig(out, dpi=130, bbox_inches="tight")


def _attention(policy: TrainedPolicy) -> Any:
    def maps(parameters: Parameters, observation: Observation) -> dict[str, jax.Array]:
        model: Any = policy.structure.merge(parameters)
        if not hasattr(model, "attention_maps"):
            raise InputError(f"{policy.path}: a {type(model).__name__} has no attention maps to draw")
        return model.attention_maps(observation)

    compiled = jax.jit(maps)
    return lambda observation: jax.device_get(compiled(policy.stored.parameters, observation))
