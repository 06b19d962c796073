"""Raw numbers of episodes to the columns of `schema.py`, checked, with where they are not finite.

Axes: step (all episodes in order), episode.
"""

import itertools
from collections.abc import Callable, Iterable

import numpy as np

from data_pipelines.schema import COLUMNS, WRITTEN_BY_TABLE, Trajectory
from vla_jax.types import InputError


def standardize_episodes(
    standardize: Callable[[Trajectory], Trajectory], raw: Trajectory, num_steps: np.ndarray, where: str
) -> Trajectory:
    """Empty where there are no steps.

    Args:
        standardize: Of a file of `datasets/`: for one episode.
        raw: [step, ...] by feature key.
        num_steps: int64[episode].
        where: What holds the episodes, for errors.
    """
    ends = np.append(0, np.cumsum(num_steps)).tolist()
    parts: dict[str, list[np.ndarray]] = {}
    for episode, (first, end) in enumerate(itertools.pairwise(ends)):
        if first == end:
            continue
        numbers = {key: np.asarray(column[first:end]) for key, column in raw.items()}
        columns = _standardize(standardize, numbers, f"{where} episode {episode}")
        for key, column in columns.items():
            parts.setdefault(key, []).append(column)
    for key, given in parts.items():
        if (length := sum(map(len, given))) != ends[-1]:
            raise InputError(f"{standardize.__module__}: gave {key!r} for {length} of {ends[-1]} steps of {where}")
    return {key: np.concatenate(given) for key, given in parts.items()}


def _standardize(standardize: Callable[[Trajectory], Trajectory], raw: Trajectory, where: str) -> Trajectory:
    length = len(next(iter(raw.values())))
    with np.errstate(invalid="ignore"):
        given = standardize(raw)
    trajectory, raw_finite = {}, _finite(raw.values(), length)
    for key, column in given.items():
        expected = COLUMNS.get(key)
        if expected is None or key in WRITTEN_BY_TABLE or not expected.fits(np.shape(column), length):
            raise InputError(
                f"{standardize.__module__}: standardize gave {key!r} of shape {np.shape(column)} for {where} "
                f"of {length} steps; schema.py has {sorted(COLUMNS)}"
            )
        trajectory[key] = np.asarray(column, expected.dtype)
    trajectory.setdefault("target_valid", np.ones(length, bool))
    trajectory.setdefault("delta_valid", np.ones(length, bool) if "delta" in trajectory else trajectory["target_valid"])
    finite = raw_finite & _finite(trajectory.values(), length)
    return trajectory | {"finite": finite, "raw_finite": raw_finite}


def _finite(columns: Iterable[np.ndarray], length: int) -> np.ndarray:
    return np.all([np.isfinite(column).reshape(length, -1).all(1) for column in columns], axis=0)
