"""Plots as inline SVG that stretches to its place; colours come from the page's style sheet.

Labels are HTML around them, so that they keep their size. Axes: t steps.
"""

import itertools

import numpy as np
from markupsafe import Markup, escape

from data_pipelines.report.filmstrip import Panel
from data_pipelines.report.histogram import Histogram

WIDTH, HEIGHT = 360, 100
"""Of the coordinate system."""
LEAST = 2.5
"""Height of a bar that is not empty."""
MOST_POINTS = 400
NUM_COLOURS = 8


def histogram_svg(histogram: Histogram) -> Markup:
    counts = histogram.counts
    heights = np.where(counts > 0, np.maximum(HEIGHT * counts / max(1, counts.max()), LEAST), 0)
    width = WIDTH / len(counts)
    gap = min(1.5, width / 8)
    bars = "".join(
        f"M{_short(n * width + gap)} {HEIGHT}v{_short(-height)}h{_short(width - 2 * gap)}v{_short(height)}z"
        for n, height in enumerate(heights)
        if height
    )
    span = histogram.high - histogram.low
    marks = "".join(
        f'<path class="mark" d="M{_short((mark - histogram.low) / span * WIDTH)} 0V{HEIGHT}"/>'
        for mark in histogram.marks
        if histogram.low <= mark <= histogram.high
    )
    return _svg(f"histogram of {histogram.name}", f'<path class="bar" d="{bars}"/>{marks}')


def bars_svg(label: str, values: list[int]) -> Markup:
    """From 0 to the largest, as steps; neighbours are put together where there are more than can be seen."""
    width = -(-len(values) // WIDTH)
    heights = [max(values[start : start + width]) for start in range(0, len(values), width)]
    top, step = max(1, *heights), WIDTH / len(heights)
    path = "".join(f"V{_short(HEIGHT * (1 - h / top))}H{_short((n + 1) * step)}" for n, h in enumerate(heights))
    return _svg(label, f'<path class="bar" d="M0 {HEIGHT}{path}V{HEIGHT}z"/>')


def curves_svg(panel: Panel, steps: tuple[int, ...]) -> Markup:
    """Args: steps: of the pictures above, whose middles the curves meet."""
    low, high = panel.bounds
    margin = 0.06 * (high - low) or max(abs(low) * 1e-3, 1e-6)
    low, high = low - margin, high + margin
    lines = "".join(
        f'<path class="line c{number % NUM_COLOURS}" d="{_path(values, steps, low, high)}"/>'
        for number, values in enumerate(panel.drawn)
    )
    ticks = "".join(
        f'<path class="tick" d="M{_short((n + 0.5) / len(steps) * WIDTH)} 0V{HEIGHT}"/>' for n in range(len(steps))
    )
    zero = f'<path class="zero" d="M0 {_short(HEIGHT * high / (high - low))}H{WIDTH}"/>' if low < 0 < high else ""
    return _svg("curves of " + ", ".join(curve.name for curve in panel.curves), ticks + zero + lines)


def _path(values: np.ndarray, steps: tuple[int, ...], low: float, high: float) -> str:
    kept = _kept(values)
    place = np.interp(kept, steps, (np.arange(len(steps)) + 0.5) / len(steps) * WIDTH)
    y = HEIGHT * (high - values[kept]) / (high - low)
    path, is_drawn = "", False
    for at, height in zip(place.tolist(), y.tolist()):
        is_number = height == height
        if is_number:
            path += f"{'L' if is_drawn else 'M'}{_short(at)} {_short(height)}"
            path += "" if is_drawn else "h.1"  # a single point shows too
        is_drawn = is_number
    return path


def _kept(values: np.ndarray) -> np.ndarray:
    """Steps that are drawn: of a long episode the lowest and highest of each stretch, so that no spike is lost."""
    if len(values) <= MOST_POINTS:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), MOST_POINTS // 2 + 1).astype(int)
    kept = {0, len(values) - 1}
    for start, end in itertools.pairwise(edges):
        if np.isfinite(part := values[start:end]).any():
            kept |= {start + int(np.nanargmin(part)), start + int(np.nanargmax(part))}
    return np.array(sorted(kept))


def _svg(label: str, content: str) -> Markup:
    """Args: content: of numbers only."""
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img"'
    return Markup(f'<svg {box} aria-label="{escape(label)}">{content}</svg>')


def _short(number: float) -> str:
    return f"{number:.1f}".rstrip("0").rstrip(".")
