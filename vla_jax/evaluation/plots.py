"""Pictures of an open-loop evaluation. Axes: n steps, h horizon, a action."""

from pathlib import Path
from typing import Any

import matplotlib.figure
import matplotlib.ticker
import numpy as np

from vla_jax.evaluation.errors import ActionErrors

POLICY, BASELINE, RECORDED = "#1f5fa8", "#b0b0b0", "#222222"


def plot_errors(path: Path, summary: dict[str, Any]) -> None:
    """Mean absolute error by horizon: one panel a dimension, then one a motion error."""
    policy = np.array(summary["mean_absolute_error"])
    baseline = np.array(summary["baseline_mean_absolute_error"])
    panels = [(_title(d), policy[:, i], baseline[:, i]) for i, d in enumerate(summary["dimensions"])]
    panels += [(name.replace("_", " "), np.array(error), None) for name, error in summary["motion_errors"].items()]
    columns = 5
    rows = -(-len(panels) // columns)
    figure = matplotlib.figure.Figure(figsize=(2.9 * columns, 2.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    steps = np.arange(1, summary["horizon"] + 1)
    for axis, (title, error, reference) in zip(axes, panels):
        axis.plot(steps, error, color=POLICY, marker="o", markersize=3, label="policy")
        if reference is not None:
            axis.plot(steps, reference, color=BASELINE, linestyle="--", label="training mean")
        axis.set_title(title, fontsize=9)
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=7)
        axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    axes[0].legend(fontsize=7)
    figure.supxlabel("action ahead", fontsize=9)
    figure.suptitle(
        f"{summary['dataset']} / {summary['split']}: mean absolute error over {summary['windows']} steps of "
        f"{summary['episodes']} episodes",
        fontsize=10,
    )
    figure.savefig(path, dpi=110)


def plot_episode(path: Path, errors: ActionErrors, episode: int, summary: dict[str, Any]) -> None:
    """The next action at each step of one episode, predicted and recorded: one panel a dimension."""
    rows = np.flatnonzero(errors.ids[:, 0] == episode)
    rows = rows[np.argsort(errors.ids[rows, 1])]
    columns = 5
    num = len(summary["dimensions"])
    figure = matplotlib.figure.Figure(figsize=(2.9 * columns, 2.2 * -(-num // columns)), layout="constrained")
    axes = figure.subplots(-(-num // columns), columns, squeeze=False).ravel()
    for index, (axis, dimension) in enumerate(zip(axes, summary["dimensions"])):
        valid = rows[errors.mask[rows, 0, index]]
        steps = errors.ids[valid, 1]
        axis.plot(steps, errors.recorded[valid, 0, index], color=RECORDED, label="recorded")
        axis.plot(steps, errors.predicted[valid, 0, index], color=POLICY, linestyle="--", label="policy")
        axis.set_title(_title(dimension), fontsize=9)
        axis.tick_params(labelsize=7)
        axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    for axis in axes[num:]:
        axis.set_visible(False)
    axes[0].legend(fontsize=7)
    figure.supxlabel("step", fontsize=9)
    figure.suptitle(f"{summary['dataset']} / {summary['split']}: next action in episode {episode}", fontsize=10)
    figure.savefig(path, dpi=110)


def _title(dimension: dict[str, str]) -> str:
    return dimension["name"] if dimension["unit"] == "1" else f"{dimension['name']} [{dimension['unit']}]"
