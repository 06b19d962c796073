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
RESERVE = 0.9
"""Of the room for films that is used: their size is an estimate."""
MOST_FINDINGS = 3
"""Of one code that are listed."""
MOST_LETTERS = 400


def compose(surveys: Sequence[Survey], weights: Weights | None) -> str:
    """A page of MOST_BYTES at most: films of episodes fill the room that the rest leaves; InputError if none."""
    room = MOST_BYTES - len(_render(surveys, weights).encode())
    if room < 0:
        raise InputError(
            f"the page of {len(surveys)} datasets has {MOST_BYTES - room} bytes without a picture, more than "
            f"{MOST_BYTES}; give fewer at a time"
        )
    for survey in surveys:
        if survey.film_maker is not None:
            survey.films = survey.film_maker.films(round(RESERVE * room / len(surveys)))
    page = _render(surveys, weights)
    assert len(page.encode()) <= MOST_BYTES
    return page


def _render(surveys: Sequence[Survey], weights: Weights | None) -> str:
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
    template = environment.get_template("page.html")
    return template.render(surveys=surveys, weights=weights, plots=plots, listed=listed, written=_now())


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
