"""Numbers of the raw actions, before any standardisation."""

from collections.abc import Iterator

import numpy as np

from data_pipelines.index.shard_index import STEPS
from data_pipelines.sketch import Sketch
from data_pipelines.verification.check import Check
from data_pipelines.verification.episode import Episode, Place
from data_pipelines.verification.finding import Finding
from data_pipelines.verification.subject import Subject

SPIKE = 5.0
TAIL = 0.01
FEWEST_STEPS = 20
FEWEST_LEFT_OUT = 2
"""On each side, so that the spread of a small dataset does not rest on the spike itself."""
MOST_JUMPS = 1000


class ActionNonfinite(Check):
    """A raw action or state has NaN or infinity. One such number makes the loss NaN; this project's pipeline replaces
    the sample and counts it. One finding a feature and episode.
    """

    code, severity = "action_nonfinite", "error"

    def of_episode(self, episode: Episode) -> Iterator[Finding]:
        for key in episode.subject.numbers:
            column = episode.numbers(key)
            if column is None or not np.issubdtype(column.dtype, np.floating):
                continue
            bad = np.flatnonzero(~np.isfinite(column).reshape(len(column), -1).all(1))
            if len(bad):
                yield self.at(episode, f"{key}: {len(bad)} of {len(column)} steps are NaN or infinite", int(bad[0]))


class ActionOutOfRange(Check):
    """A raw action is outside the lowest and highest that the dataset's publishers give (SPEC.action_range), by more
    than a thousandth of the range: another unit, another version, or damage. Not checked where no range is published.
    One finding a dimension and episode.
    """

    code, severity = "action_out_of_range", "error"

    def of_episode(self, episode: Episode) -> Iterator[Finding]:
        actions, spec = episode.actions, episode.subject.spec
        if actions is None or spec is None or spec.action_range is None:
            return
        for dim in np.flatnonzero(~actions.in_range.all(0)):
            outside = np.flatnonzero(~actions.in_range[:, dim])
            low, high = spec.action_range[dim]
            worst = actions.values[outside, dim][np.abs(actions.values[outside, dim]).argmax()]
            message = f"{actions.names[dim]}: {worst:.4g} in {len(outside)} steps, published are {low:g} to {high:g}"
            yield self.at(episode, message, int(outside[0]))


class ActionSpike(Check):
    """One step's raw action leaps and comes back: it differs from the step before and the step after, in the same
    direction, by more than five times the dimension's spread over the dataset, from its 1 % to its 99 % quantile. Of
    motions the ends of an episode count with their only neighbour. An angle that wraps, a dropped frame, a unit that
    changed: it stretches min-max normalisation for everyone. Grippers are left out, dimensions whose spread is 0, and
    datasets of fewer than twenty steps; the thousand largest leaps of a dimension are looked at.
    """

    code, severity = "action_spike", "warning"

    def __init__(self) -> None:
        self._sketch: Sketch | None = None
        self._jumps: dict[str, list[tuple[float, Place, int, int]]] = {}

    def of_episode(self, episode: Episode) -> Iterator[Finding]:
        if episode.actions is not None:
            self._gather(episode)
        yield from ()

    def _gather(self, episode: Episode) -> None:
        actions = episode.actions
        assert actions is not None
        steps = np.flatnonzero(actions.usable)
        if self._sketch is None:
            self._sketch = Sketch(len(actions.names))
        self._sketch.add(actions.values[steps])
        if len(steps) < 2:
            return
        leaps = _leaps(actions.values[steps])
        if not episode.has_motions:
            leaps[[0, -1]] = 0.0
        for dim in np.flatnonzero(~actions.is_gripper):
            jumps = self._jumps.setdefault(actions.names[dim], [])
            for place in leaps[:, dim].argsort()[::-1][:MOST_JUMPS].tolist():
                if len(jumps) >= MOST_JUMPS and leaps[place, dim] <= jumps[-1][0]:
                    break
                jumps.append((float(leaps[place, dim]), episode.place, episode.number, int(steps[place])))
            jumps.sort(key=lambda jump: -jump[0])
            del jumps[MOST_JUMPS:]

    def merge(self, other: "ActionSpike") -> None:
        if other._sketch is None:
            return
        if self._sketch is None:
            self._sketch = other._sketch
        else:
            self._sketch.merge(other._sketch)
        for name, jumps in other._jumps.items():
            self._jumps[name] = sorted(self._jumps.get(name, []) + jumps, key=lambda jump: -jump[0])[:MOST_JUMPS]

    def of_dataset(self, subject: Subject) -> Iterator[Finding]:
        if self._sketch is None or self._sketch.count < FEWEST_STEPS:
            return
        tail = max(TAIL, FEWEST_LEFT_OUT / self._sketch.count)
        spread = self._sketch.quantile(1 - tail) - self._sketch.quantile(tail)
        for name, scale in zip(_names(subject, len(spread)), spread):
            for leap, place, number, step in self._jumps.get(name, ()):
                if scale > 0 and leap > SPIKE * scale:
                    message = f"{name} leaps by {leap:.3g} and back, {leap / scale:.0f} times its spread {scale:.3g}"
                    yield self.finding(message, split=place.split, shard=place.shard, episode=number, step=step)


def _leaps(values: np.ndarray) -> np.ndarray:
    """[t, a]: how far each step is from both neighbours, 0 where it lies between them."""
    before = np.diff(values, axis=0, prepend=values[1:2])
    after = -np.diff(values, axis=0, append=values[-2:-1])
    return np.where(before * after > 0, np.minimum(np.abs(before), np.abs(after)), 0.0)


def _names(subject: Subject, width: int) -> list[str]:
    names = []
    for key in subject.actions:
        size = int(np.prod(subject.directory.features[key].shape))
        names += [f"{key.removeprefix(STEPS)}[{dim}]" for dim in range(size)]
    assert len(names) == width
    return names
