"""Episodes that are too short, there twice, or badly marked."""

from collections.abc import Iterator

import numpy as np

from data_pipelines.index.shard_index import STEPS
from data_pipelines.verification.check import Check
from data_pipelines.verification.episode import Episode, Place
from data_pipelines.verification.finding import Finding
from data_pipelines.verification.subject import Subject

SHORTEST = 2


class EpisodeTooShort(Check):
    """Fewer than two steps: there is no next state, so no motion can be learned from it."""

    code, severity = "episode_too_short", "warning"

    def of_episode(self, episode: Episode) -> Iterator[Finding]:
        if episode.num_steps < SHORTEST and not episode.problems:
            yield self.at(episode, f"{episode.num_steps} steps")


class _Twins(Check):
    """Episodes of the same content: every raw state and action, and each camera's first picture, bit by bit."""

    within_split: bool

    def __init__(self) -> None:
        self._seen: dict[bytes, list[tuple[Place, int]]] = {}

    def of_episode(self, episode: Episode) -> Iterator[Finding]:
        if episode.num_steps >= SHORTEST and episode.raw:
            self._seen.setdefault(episode.content, []).append((episode.place, episode.number))
        yield from ()

    def merge(self, other: "_Twins") -> None:
        for content, places in other._seen.items():
            self._seen.setdefault(content, []).extend(places)

    def of_dataset(self, subject: Subject) -> Iterator[Finding]:
        for places in self._seen.values():
            for i, (place, number) in enumerate(places):
                before = [p for p in places[:i] if (p[0].split == place.split) == self.within_split]
                if before:
                    first, first_number = before[0]
                    message = f"the same episode as {first.split} episode {first_number} ({first.shard})"
                    yield self.finding(message, split=place.split, shard=place.shard, episode=number)


class EpisodeDuplicate(_Twins):
    """An episode is twice in the same split: every raw state and action and each camera's first picture are equal,
    bit by bit. It counts double in training, and statistics say more data than there are. Copies whose pictures were
    encoded anew are not found.
    """

    code, severity, within_split = "episode_duplicate", "warning", True


class SplitOverlap(_Twins):
    """An episode of one split is in another one too (as for episode_duplicate): validation measures memory."""

    code, severity, within_split = "split_overlap", "error", False


class LastFlagMissing(Check):
    """`is_last` is not True at the last step of an episode, is True before it, or features.json has no such flag.
    Code that cuts streams of steps into episodes by it joins episodes or cuts one; this project does not read it.
    """

    code, severity = "last_flag_missing", "info"

    def of_description(self, subject: Subject) -> Iterator[Finding]:
        if STEPS + "is_last" not in subject.directory.features:
            yield self.finding("features.json has no steps/is_last")

    def of_episode(self, episode: Episode) -> Iterator[Finding]:
        flags = episode.numbers(STEPS + "is_last")
        if flags is None or not len(flags):
            return
        at = np.flatnonzero(flags.reshape(len(flags), -1).any(1))
        if len(at) != 1 or at[0] != len(flags) - 1:
            found = "never" if not len(at) else f"at steps {at[:5].tolist()}"
            yield self.at(episode, f"is_last is True {found}, expected at step {len(flags) - 1}", len(flags) - 1)
