"""Open-loop evaluation: the actions a policy would take on recorded episodes, against those recorded.

    OUT/summary.json         schema `open_loop_summary`
    OUT/errors.csv           one row a horizon entry and dimension
    OUT/errors.png           mean absolute error by horizon
    OUT/episode_N.png        the next action along some episodes, predicted and recorded

Axes: n steps, h horizon, a action.
"""

import csv
import dataclasses
import json
import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import rich.console
import rich.progress
import rich.table

from data_pipelines.discovery import find_action_space
from data_pipelines.episodes import EpisodeSteps, open_episodes
from data_pipelines.index.dataset_directory import read_directory
from vla_jax.evaluation import plots
from vla_jax.evaluation.errors import ActionErrors
from vla_jax.run_directory import new_folder
from vla_jax.trained_policy import TrainedPolicy
from vla_jax.types import InputError

HELD_OUT = ("val", "test")
log = logging.getLogger(__name__)


def evaluate(
    policy: TrainedPolicy, dataset: Path, out: Path, *, split: str | None, batch_size: int, num_pictures: int
) -> dict[str, Any]:
    """Writes `out`, whole or not at all, prints a table, and returns the summary.

    The run is only read: an index of the split is made for this evaluation alone, unless one lies beside the data.

    Args: dataset: a TFDS directory whose name the policy's statistics know. split: None: the first of val, test, train.
    """
    if batch_size < 1:
        raise InputError(f"--batch-size {batch_size}: at least 1 expected")
    splits = read_directory(dataset).splits
    split = split or next((name for name in HELD_OUT if name in splits), "train")
    if split not in HELD_OUT:
        log.warning("%s: errors on split %r say nothing of data that the policy has not seen", dataset, split)
    with new_folder(out) as folder, tempfile.TemporaryDirectory(prefix="vla_jax_") as cache:
        episodes = open_episodes(
            dataset,
            dataclasses.replace(policy.config.data, cache=cache, split=split),
            policy.config.policy.data_requirements(),
            policy.tokenizer,
            statistics=policy.statistics,
            batch_size=batch_size,
        )
        steps = rich.progress.track(
            episodes.batches(), "steps", -(-episodes.num_steps // batch_size), console=rich.console.Console(stderr=True)
        )
        errors = predict(policy, episodes.source.name, steps)
        summary = summarize(policy, errors, episodes.source.name, split, episodes.num_skipped)
        write(folder, policy, errors, summary, num_pictures)
    _print(summary, out)
    return summary


def predict(policy: TrainedPolicy, dataset: str, steps: Iterable[EpisodeSteps]) -> ActionErrors:
    parts = [
        (policy.act_unnormalized(part.observation, dataset), part.action, part.action_mask, part.ids) for part in steps
    ]
    if not parts:
        raise InputError(f"{dataset}: no readable step in this split: there is nothing to evaluate")
    errors = ActionErrors(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    finite = np.isfinite(errors.predicted).all(axis=(1, 2))
    if not finite.all():
        episode, step = errors.ids[~finite][0]
        raise InputError(
            f"{policy.stored.folder}: the action at {dataset} episode {episode}, step {step} is not finite; evaluate "
            "another checkpoint (--step)"
        )
    return errors


def summarize(
    policy: TrainedPolicy, errors: ActionErrors, dataset: str, split: str, num_skipped: int
) -> dict[str, Any]:
    space = policy.config.action_space
    motion = find_action_space(space.form).motion_errors(errors.predicted, errors.recorded)
    return {
        "checkpoint": str(policy.path),
        "step": policy.stored.step or 0,
        "weights": policy.stored.weights,
        "int8": policy.int8,
        "dataset": dataset,
        "split": split,
        "episodes": len(np.unique(errors.ids[:, 0])),
        "windows": len(errors.ids),
        "skipped": num_skipped,
        "horizon": space.horizon,
        "dimensions": [{"name": d.name, "unit": d.unit} for d in space.dimensions],
        "mean_absolute_error": errors.mean_absolute().tolist(),
        "baseline_mean_absolute_error": errors.of_constant(_training_mean(policy, dataset)).tolist(),
        "motion_errors": {name: errors.mean_of(error).tolist() for name, error in motion.items()},
    }


def write(
    folder: Path, policy: TrainedPolicy, errors: ActionErrors, summary: dict[str, Any], num_pictures: int
) -> None:
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    rows = errors.table(policy.config.action_space.dimensions, np.array(summary["baseline_mean_absolute_error"]))
    with (folder / "errors.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, rows[0])
        table.writeheader()
        table.writerows(rows)
    plots.plot_errors(folder / "errors.png", summary)
    for episode in np.unique(errors.ids[:, 0])[:num_pictures]:
        plots.plot_episode(folder / f"episode_{episode}.png", errors, episode, summary)


def _training_mean(policy: TrainedPolicy, dataset: str) -> np.ndarray:
    return np.asarray(policy.statistics[dataset]["action"]["mean"], np.float32)


def _print(summary: dict[str, Any], out: Path) -> None:
    weights = f"{summary['weights']} weights" + (f", int8 {summary['int8']}" if summary["int8"] else "")
    title = f"{summary['dataset']} / {summary['split']}, step {summary['step']} ({weights})"
    table = rich.table.Table("dimension", "unit", "error, next action", "error, last", "training mean", title=title)
    policy, baseline = summary["mean_absolute_error"], summary["baseline_mean_absolute_error"]
    for a, dimension in enumerate(summary["dimensions"]):
        values = [f"{value:.4f}" for value in (policy[0][a], policy[-1][a], baseline[0][a])]
        table.add_row(dimension["name"], dimension["unit"], *values)
    for name, error in summary["motion_errors"].items():
        table.add_row(name, "", f"{error[0]:.4f}", f"{error[-1]:.4f}", "")
    console = rich.console.Console()
    console.print(table)
    console.print(f"{summary['windows']} steps of {summary['episodes']} episodes; written to {out}")
