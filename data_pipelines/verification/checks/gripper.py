"""The gripper: which commands mean open, and whether they are two or many."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from data_pipelines.verification.check import Check
from data_pipelines.verification.episode import Episode
from data_pipelines.verification.finding import Finding
from data_pipelines.verification.subject import Subject

OUTSIDE = 0.05
AGAINST = -0.5
FEWEST_STEPS = 50
MOST_LEVELS = 10_000
BETWEEN, BETWEEN_SHARE = 0.05, 0.01
ARMS = ("", "left_")


class GripperConvention(Check):
    """The gripper is not as the SPEC says: after `standardize`, 1 open and 0 closed, (1) an openness leaves 0..1 by
    more than 0.05, or (2) over the dataset the commanded openness goes against the one measured a step later
    (correlation below -0.5 over at least 50 steps), or (3) it never changes though the raw command does. A policy
    trained on it closes where it should open. A dataset whose command and measurement are both inverted passes.
    """

    code, severity = "gripper_convention", "error"

    def __init__(self) -> None:
        self._moments = {arm: np.zeros(6) for arm in ARMS}
        self._openness: Counter[float] = Counter()
        self._raw = _Levels()

    def of_episode(self, episode: Episode) -> Iterator[Finding]:
        given = episode.standardized
        for name in ("gripper", "target_gripper"):
            for arm in ARMS:
                values = np.asarray(given.get(arm + name, ()), np.float64)
                outside = np.flatnonzero(np.abs(values - 0.5) > 0.5 + OUTSIDE)
                if len(outside):
                    message = f"standardised {arm}{name} is {values[outside[0]]:.3g}, expected 0 closed to 1 open"
                    yield self.at(episode, message, int(outside[0]))
        for arm in ARMS:
            if {arm + "gripper", arm + "target_gripper"} <= given.keys():
                self._moments[arm] += _moments(given[arm + "target_gripper"][:-1], given[arm + "gripper"][1:])
        if "target_gripper" in given and episode.actions is not None:
            actions = episode.actions
            self._openness.update(np.round(given["target_gripper"].astype(np.float64), 2).tolist())
            self._raw.add(actions.values[actions.usable][:, actions.is_gripper])

    def merge(self, other: "GripperConvention") -> None:
        for arm in ARMS:
            self._moments[arm] += other._moments[arm]
        self._openness.update(other._openness)
        self._raw.merge(other._raw)

    def of_dataset(self, subject: Subject) -> Iterator[Finding]:
        for arm in ARMS:
            correlation = _correlation(self._moments[arm])
            if correlation < AGAINST:
                yield self.finding(
                    f"commanded {arm}openness goes against the measured one (correlation {correlation:.2f}): "
                    f"one of the two is inverted"
                )
        if len(self._openness) == 1 and self._raw.total >= FEWEST_STEPS and self._raw.have_two():
            only = next(iter(self._openness))
            yield self.finding(f"the raw command changes, but the standardised openness is always {only:g}")


class GripperContinuous(Check):
    """The raw gripper command takes values other than two extremes and the middle of them (the rest of a relative
    command): more than 1 % of all steps are farther than 5 % of the range from each; the range is from the 1 % to
    the 99 % quantile. A decoder that expects two values, and an action of one bit, need it binarised, which
    `standardize` does where upstream does.
    """

    code, severity = "gripper_continuous", "info"

    def __init__(self) -> None:
        self._levels: dict[str, _Levels] = {}

    def of_episode(self, episode: Episode) -> Iterator[Finding]:
        actions = episode.actions
        if actions is not None:
            for dim in np.flatnonzero(actions.is_gripper):
                levels = self._levels.setdefault(actions.names[dim], _Levels())
                levels.add(actions.values[actions.usable, dim])
        yield from ()

    def merge(self, other: "GripperContinuous") -> None:
        for name, levels in other._levels.items():
            self._levels.setdefault(name, _Levels()).merge(levels)

    def of_dataset(self, subject: Subject) -> Iterator[Finding]:
        for name, levels in self._levels.items():
            share, low, high = levels.between()
            if share > BETWEEN_SHARE:
                yield self.finding(f"{name}: {share:.1%} of its commands lie between {low:g}, {high:g} and the middle")


class _Levels:
    """How often a number occurs, to three decimals; the rarest are dropped beyond MOST_LEVELS."""

    def __init__(self) -> None:
        self._counts: Counter[float] = Counter()

    @property
    def total(self) -> int:
        return self._counts.total()

    def add(self, values: np.ndarray) -> None:
        self._counts.update(np.round(values.reshape(-1), 3).tolist())
        self._bound()

    def merge(self, other: "_Levels") -> None:
        self._counts.update(other._counts)
        self._bound()

    def have_two(self) -> bool:
        """Whether there are two values that each take 1 % and more."""
        return sum(count >= BETWEEN_SHARE * self.total for count in self._counts.values()) > 1

    def between(self) -> tuple[float, float, float]:
        """The share of numbers between the extremes and the middle, and the extremes."""
        if not self._counts:
            return 0.0, 0.0, 0.0
        values = np.array(sorted(self._counts))
        counts = np.array([self._counts[value] for value in values.tolist()])
        ranks = np.cumsum(counts) / counts.sum()
        low, high = values[np.minimum(np.searchsorted(ranks, (0.01, 0.99)), len(values) - 1)].tolist()
        distance = np.abs(values[:, None] - [low, high, (low + high) / 2]).min(1)
        inside = (values > low) & (values < high) & (distance > BETWEEN * (high - low))
        return float(counts[inside].sum() / counts.sum()), low, high

    def _bound(self) -> None:
        if len(self._counts) > 2 * MOST_LEVELS:
            self._counts = Counter(dict(self._counts.most_common(MOST_LEVELS)))


def _moments(commanded: np.ndarray, measured: np.ndarray) -> np.ndarray:
    pairs = np.stack([commanded, measured]).astype(np.float64)
    x, y = pairs[:, np.isfinite(pairs).all(0)]
    return np.array([len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y])


def _correlation(moments: np.ndarray) -> float:
    """0 where there are too few steps or one of the two hardly moves."""
    count, x, y, xx, yy, xy = moments
    if count < FEWEST_STEPS:
        return 0.0
    x_variance, y_variance = xx / count - (x / count) ** 2, yy / count - (y / count) ** 2
    if min(x_variance, y_variance) < 1e-4:
        return 0.0
    return float((xy / count - x * y / count**2) / np.sqrt(x_variance * y_variance))
