"""The loss curve of a run, from its metrics.jsonl."""

import json
from pathlib import Path

import matplotlib.figure
import numpy as np

from vla_jax.types import InputError


def plot_loss(path: Path, metrics: Path) -> None:
    """Logged losses, and their running median."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if "step" in line}
    if not losses:
        raise InputError(f"{metrics}: no logged step in it")
    steps, values = np.array(sorted(losses)), np.array([losses[step] for step in sorted(losses)])
    half = max(1, len(values) // 40)
    smooth = [np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    figure = matplotlib.figure.Figure(figsize=(6, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.plot(steps, values, color="#b0b0b0", linewidth=0.8, label="logged")
    axis.plot(steps, smooth, color="#1f5fa8", label="running median")
    axis.set_xlabel("step")
    axis.set_ylabel("loss")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
