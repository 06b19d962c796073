"""Pictures of a probe by layer. Axes: l layers, r c rows and columns of visual tokens, y x pixels."""

from pathlib import Path
from typing import Any

import matplotlib.figure
import matplotlib.ticker
import numpy as np

COLUMNS = 9
COLORS = ("#9ecae1", "#4292c6", "#08519c", "#08306b")


def plot_curves(path: Path, summary: dict[str, Any]) -> None:
    """Error of the actions by the layer whose visual tokens are zeroed, and how much of Grad-CAM lies in the region."""
    figure = matplotlib.figure.Figure(figsize=(9, 3.4), layout="constrained")
    errors, inside = figure.subplots(1, 2)
    layers, zeroed = np.arange(summary["num_layers"]), np.array(summary["zeroed_error"])
    for number, ratio in enumerate(summary["ratios"]):
        color = COLORS[number % len(COLORS)]
        errors.plot(layers, zeroed[:, number], color=color, marker="o", markersize=3, label=f"{ratio:.0%} zeroed")
    errors.axhline(summary["error"], color="#222222", linestyle="--", label="nothing zeroed")
    errors.set_ylabel("squared error of the actions")
    inside.plot(layers, summary["grad_cam_in_region"], color=COLORS[1], marker="o", markersize=3, label="Grad-CAM")
    inside.axhline(summary["region_share"], color="#222222", linestyle="--", label="share of the picture")
    inside.set_ylabel("share in the region")
    inside.set_ylim(bottom=0)
    for axis in (errors, inside):
        axis.set_xlabel("layer of the language model")
        axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        axis.legend(fontsize=7)
    figure.suptitle(f"{summary['dataset']} / {summary['split']}: {summary['steps']} steps", fontsize=10)
    figure.savefig(path, dpi=110)


def plot_cams(path: Path, picture: np.ndarray, cams: np.ndarray, region: np.ndarray, *, title: str) -> None:
    """Args: picture: uint8 [y, x, 3]. cams: [l, r, c]. region: bool [1, r, c]."""
    panels = 2 + len(cams)
    rows = -(-panels // COLUMNS)
    figure = matplotlib.figure.Figure(figsize=(1.5 * min(panels, COLUMNS), 1.75 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, min(panels, COLUMNS), squeeze=False).ravel()
    extent = (-0.5, picture.shape[1] - 0.5, picture.shape[0] - 0.5, -0.5)
    for axis in axes:
        axis.axis("off")
    axes[0].imshow(picture)
    axes[0].set_title("picture", fontsize=8)
    for axis, values, name in zip(axes[1:], [region[0], *cams], ["region", *map(str, range(len(cams)))]):
        axis.imshow(picture.mean(-1), cmap="gray", alpha=0.6, extent=extent)
        axis.imshow(values, cmap="inferno", alpha=0.6, extent=extent, interpolation="nearest")
        axis.set_title(name if name == "region" else f"layer {name}", fontsize=8)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=130)
