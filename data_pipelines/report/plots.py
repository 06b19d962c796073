"""Plots as inline SVG that stretches to its place; colours come from the page's style sheet.

Labels are HTML around them, so that they keep their size. Axes: t steps.
"""

import itertools
import math

import numpy as np
from markupsafe import Markup, escape

from data_pipelines.report.filmstrip import Panel
from data_pipelines.report.histogram import Histogram

WIDTH, HEIGHT = 1000, 200
"""Of the coordinate system, in whole numbers: a page has thousands of shapes."""
LEAST, TALLEST = 6, 188
"""Height of a bar that is not empty."""
MOST_BARS = 500
NUM_COLOURS = 8


def histogram_svg(histogram: Histogram) -> Markup:
    span = histogram.high - histogram.low
    marks = "".join(
        f'<path class="mark" d="M{round((mark - histogram.low) / span * WIDTH)} 0v{HEIGHT}"/>'
        for mark in histogram.marks
        if histogram.low <= mark <= histogram.high
    )
    return _svg(f"histogram of {histogram.name}", _bars(histogram.counts, are_apart=histogram.is_whole) + marks)


def bars_svg(label: str, values: list[int]) -> Markup:
    """Neighbours are put together, as the largest of them, where there are more than can be seen."""
    width = -(-len(values) // MOST_BARS)
    highest = [max(values[start : start + width]) for start in range(0, len(values), width)]
    return _svg(label, _bars(np.array(highest)))


def _bars(counts: np.ndarray, *, are_apart: bool = False) -> str:
    """From 0 to the largest."""
    scaled = np.maximum(np.rint(TALLEST * counts / max(1, counts.max())), LEAST)
    heights = np.where(counts > 0, scaled, 0).astype(int).tolist()
    edges = np.rint(np.linspace(0, WIDTH, len(counts) + 1)).astype(int).tolist()
    if are_apart:
        gap = max(1, WIDTH // (12 * len(counts)))
        bars = [(left + gap, right - left - 2 * gap, up) for left, right, up in zip(edges, edges[1:], heights) if up]
        outline = "".join(f"M{left} {HEIGHT}v{-up}h{width}v{up}z" for left, width, up in bars)
    else:
        steps = zip(np.diff(heights, prepend=0).tolist(), np.diff(edges).tolist())
        outline = (
            f"M0 {HEIGHT}" + "".join((f"v{-up}" if up else "") + f"h{right}" for up, right in steps) + f"V{HEIGHT}z"
        )
    return f'<path class="bar" d="{outline}"/>'


def curves_svg(panel: Panel, steps: tuple[int, ...]) -> Markup:
    """Args: steps: of the pictures above, whose middles the curves meet."""
    low, high = panel.bounds
    margin = 0.06 * (high - low) or max(abs(low) * 1e-3, 1e-6)
    low, high = low - margin, high + margin
    middles = (np.arange(len(steps)) + 0.5) / len(steps) * WIDTH
    lines = ""
    for number, values in enumerate(panel.drawn):
        kept = _kept(values, panel.most_points)
        x, y = np.interp(kept, steps, middles), HEIGHT * (high - values[kept]) / (high - low)
        lines += f'<path class="line c{number % NUM_COLOURS}" d="{_path(x, y)}"/>'
    ticks = "".join(f"M{round(x)} 0v{HEIGHT}" for x in middles)
    zero = f'<path class="zero" d="M0 {round(HEIGHT * high / (high - low))}h{WIDTH}"/>' if low < 0 < high else ""
    names = ", ".join(curve.name for curve in panel.curves)
    return _svg(f"curves of {names}", f'<path class="tick" d="{ticks}"/>{zero}{lines}')


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """Broken where y is not a number."""
    path, is_drawn = "", False
    for right, down in zip(x.tolist(), y.tolist()):
        is_number = math.isfinite(down)
        if is_number:
            path += f"{'L' if is_drawn else 'M'}{round(right)} {round(down)}"
            path += "" if is_drawn else "h1"  # a single point shows too
        is_drawn = is_number
    return path


def _kept(values: np.ndarray, most: int) -> np.ndarray:
    """Steps that are drawn: of a long episode the lowest and highest of each stretch, so that no spike is lost."""
    if len(values) <= most:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), most // 2 + 1).astype(int)
    kept = {0, len(values) - 1}
    for start, end in itertools.pairwise(edges):
        if np.isfinite(part := values[start:end]).any():
            kept |= {start + int(np.nanargmin(part)), start + int(np.nanargmax(part))}
    return np.array(sorted(kept))


def _svg(label: str, content: str) -> Markup:
    """Args: content: of numbers only."""
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img"'
    return Markup(f'<svg {box} aria-label="{escape(label)}">{content}</svg>')
