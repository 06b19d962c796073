"""The page: one HTML file that needs nothing else, and runs nothing.

Text is escaped by the template engine; a content security policy in the page's head forbids scripts and network.
"""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from data_pipelines.cache import new_file
from data_pipelines.report import plots
from data_pipelines.report.survey import Survey
from data_pipelines.report.weights import Weights
from data_pipelines.verification.finding import Finding, Findings
from vla_jax.types import InputError

MOST_BYTES = 5_000_000
PICTURE_BYTES = 3_000_000
"""Of all datasets together."""
MOST_FINDINGS = 3
"""Of one code that are listed."""
MOST_LETTERS = 400


def render(surveys: Sequence[Survey], weights: Weights | None) -> str:
    """InputError where it would be larger than MOST_BYTES."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "number": number,
        "count": count,
        "size": size,
        "share": share,
        "cut": cut,
        "duration": duration,
    }
    page = environment.get_template("page.html").render(
        surveys=surveys, weights=weights, plots=plots, listed=listed, written=_now()
    )
    if (num_bytes := len(page.encode())) > MOST_BYTES:
        raise InputError(
            f"the page of {len(surveys)} datasets has {num_bytes} bytes, more than {MOST_BYTES}; give fewer at a time"
        )
    return page


def write(page: str, file: Path) -> None:
    with new_file(file) as stream:
        stream.write(page.encode())


def listed(findings: Findings) -> list[tuple[str, int, list[Finding]]]:
    """By code, errors first: how many there are, and the first few."""
    return [(code, findings.totals[code], findings.of(code)[:MOST_FINDINGS]) for code in findings.codes()]


def number(value: float, digits: int = 3) -> str:
    """Args: digits: significant ones."""
    if 10**digits <= abs(value) < 10**9:
        return count(value).replace("-", "−")
    text = f"{value:.{digits}g}"
    return text.replace("e-0", "e-").replace("e+0", "e+").replace("-", "−")


def count(value: float) -> str:
    return f"{round(value):,}".replace(",", "\u202f")


def size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


def duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{count(seconds / length)} {unit}"
    return f"{count(seconds)} s"


def share(value: float) -> str:
    return f"{100 * value:.3g} %"


def cut(text: Any) -> str:
    text = str(text).encode("utf-8", "replace").decode()
    return text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS - 1] + "…"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
