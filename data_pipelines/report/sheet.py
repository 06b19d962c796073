"""A sample as one picture: each camera as read and as the policy sees it, then the chunk of actions.

Axes: w window, h horizon, a action.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.axes
import matplotlib.figure
import matplotlib.patches
import matplotlib.ticker
import numpy as np

from data_pipelines.report.language import shown
from data_pipelines.report.sample import ShownSample, depth_name
from data_pipelines.transforms.geometry import UNCHANGED
from vla_jax.types import DataRequirements, Dimension

MOST_STEPS = 8
"""Window steps that are drawn; of longer windows, evenly spread ones."""
COLUMNS = 10
FEWEST_COLUMNS = 6
"""Of pictures."""
WIDTH_INCHES = 15.0
STORED, GIVEN, MASKED = "#1f5fa8", "#b4560f", "#b0b0b0"
KEPT, BOX = "#f2c200", "#e0301e"


@dataclasses.dataclass(frozen=True)
class Tile:
    title: str
    picture: np.ndarray | None
    """None: the policy is given none."""
    outlines: Sequence[tuple[float, ...]] = ()
    """Left, upper, right, lower in shares of the picture."""
    colour: str = KEPT


def draw_sheet(path: Path, sample: ShownSample, needs: DataRequirements) -> None:
    sources = {camera.slot: camera.source for camera in needs.cameras}
    sources |= {depth_name(depth.slot): depth.slot for depth in needs.depths}
    lines = [line for name, source in sources.items() for line in _lines(sample, name, source, needs.window)]
    columns = max(FEWEST_COLUMNS, *(len(tiles) for _, tiles in lines))
    num_blocks = -(-needs.action_space.action_width // COLUMNS)
    heights = [(WIDTH_INCHES / columns + 0.15) * len(lines), 2 * 1.25 * num_blocks + 0.3]
    figure = matplotlib.figure.Figure(figsize=(WIDTH_INCHES, sum(heights) + 0.8), layout="constrained")
    place = f"{sample.dataset}, episode {sample.episode}, step {sample.step} (sample {sample.chosen.index})"
    told = f"“{shown(sample.chosen.text)}”" if sample.chosen.text else "no instruction"
    figure.suptitle(f"{place}\n{told}", fontsize=10, parse_math=False)
    above, below = figure.subfigures(2, 1, height_ratios=heights)
    axes = above.subplots(len(lines), columns, squeeze=False)
    for row, (label, tiles) in zip(axes, lines):
        row[0].set_ylabel(label, fontsize=8)
        for axis, tile in itertools.zip_longest(row, tiles):
            _draw_tile(axis, tile)
    _draw_actions(below, sample, needs.action_space.dimensions)
    figure.savefig(path, dpi=100)


def _lines(sample: ShownSample, name: str, source: str, window: int) -> list[tuple[str, list[Tile]]]:
    """Labels and tiles: as read, as the policy sees it, and later steps where asked for; in one line if they fit.

    Args: name: of `sample.pictures`; source: the camera slot that is shown.
    """
    steps = np.unique(np.rint(np.linspace(0, window - 1, min(MOST_STEPS, window))).astype(int)).tolist()
    pictures, chosen = sample.pictures[name], sample.chosen
    geometry = chosen.geometries.get(source, UNCHANGED)
    boxes = pictures.visible_boxes() if pictures.boxes is not None else [[]] * window

    def tiles(kind: str, along: Any, outlines: Any, colour: str) -> list[Tile]:
        return [
            Tile(
                f"{kind}, {step - sample.place:+d}",
                along[step] if pictures.mask[step] else None,
                outlines(step),
                colour,
            )
            for step in steps
        ]

    lines = [
        tiles("as read", pictures.as_read, lambda step: [geometry.box], KEPT),
        tiles("as seen", pictures.seen, lambda step: boxes[step], BOX),
    ]
    if pictures.later is not None:
        lines.append(tiles("later", pictures.later, lambda step: [], KEPT))
    if pictures.goal is not None and chosen.goal is not None:
        lines[-1].append(Tile(f"goal, {chosen.goal - chosen.row:+d}", pictures.goal))
    turned = f"\nturned {geometry.degrees:.1f}°" if geometry.degrees else ""
    label = name + turned + ("\nmirrored" if geometry.mirrored else "")
    if pictures.range_metres is not None:
        label += "\n{:.2f} to {:.2f} m".format(*pictures.range_metres)
    together = list(itertools.chain(*lines))
    return [(label, together)] if len(together) <= MOST_STEPS else [(label, line) for line in lines]


def _draw_tile(axis: matplotlib.axes.Axes, tile: Tile | None) -> None:
    if tile is None:
        axis.set_visible(False)
        return
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_color("#dddddd")
    if tile.picture is None:
        axis.set_title(tile.title, fontsize=7)
        axis.text(0.5, 0.5, "no picture\n(mask False)", ha="center", va="center", fontsize=7, color=MASKED)
        return
    height, width = tile.picture.shape[:2]
    axis.imshow(tile.picture)
    axis.set_title(f"{tile.title}: {width} x {height}", fontsize=7)
    for box in tile.outlines:
        _outline(axis, tuple(box), width, height, tile.colour)


def _outline(axis: matplotlib.axes.Axes, box: tuple, width: int, height: int, colour: str) -> None:
    left, upper, right, lower = box
    corner = (left * width - 0.5, upper * height - 0.5)
    extent = ((right - left) * width, (lower - upper) * height)
    axis.add_patch(matplotlib.patches.Rectangle(corner, *extent, fill=False, edgecolor=colour, linewidth=1.2))


def _draw_actions(figure: matplotlib.figure.SubFigure, sample: ShownSample, dimensions: tuple[Dimension, ...]) -> None:
    """The chunk at the sampled step: as in the dataset above, as the policy is given it below."""
    num_blocks = -(-len(dimensions) // COLUMNS)
    axes = figure.subplots(2 * num_blocks, COLUMNS, squeeze=False)
    figure.suptitle(
        "Chunk of actions at the sampled step: stored unit (blue), normalised (orange); grey: mask False", fontsize=8
    )
    rows = ((sample.action, STORED), (sample.normalised_action, GIVEN))
    for number in range(num_blocks * COLUMNS):
        block, column = divmod(number, COLUMNS)
        for line, (values, colour) in enumerate(rows):
            axis = axes[2 * block + line, column]
            if number >= len(dimensions):
                axis.set_visible(False)
                continue
            dimension = dimensions[number]
            mask = sample.action_mask[sample.place, :, number]
            _draw_chunk(axis, values[sample.place, :, number], mask, colour)
            if line == 0:
                unit = "" if dimension.unit == "1" else f" [{dimension.unit}]"
                axis.set_title(f"{dimension.name}{unit}", fontsize=7)


def _draw_chunk(axis: matplotlib.axes.Axes, values: np.ndarray, mask: np.ndarray, colour: str) -> None:
    ahead = np.arange(len(values))
    axis.plot(ahead, np.where(mask, values, np.nan), color=colour, marker=".", markersize=4, linewidth=1.2)
    axis.plot(ahead[~mask], values[~mask], color=MASKED, marker="x", markersize=4, linestyle="none")
    axis.tick_params(labelsize=6)
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axis.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:.3g}"))
    low, high = float(values.min()), float(values.max())
    margin = max(0.15 * (high - low), 1e-3 * max(abs(low), abs(high)), 1e-4)
    axis.set_ylim(low - margin, high + margin)
