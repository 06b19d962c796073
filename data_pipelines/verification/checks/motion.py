"""Actions that command nothing."""

from collections.abc import Iterator

import numpy as np

from data_pipelines.verification.check import Check
from data_pipelines.verification.episode import Episode
from data_pipelines.verification.finding import Finding

STILL = 5e-4
ZERO = 1e-5
IDLE_SHARE = 0.5
FEWEST_STEPS = 5


class ActionIdle(Check):
    """In more than half of an episode's steps, the first left out, the robot is told to stay: no dimension of a
    motion is above 0.0005 (0.5 mm, 0.03 degrees), or an absolute command differs by no more from the step before; and
    the gripper's command stays too. A policy trained on many such steps learns to stand still (openpi#605). Episodes
    of fewer than five steps are not judged.
    """

    code, severity = "action_idle", "warning"

    def of_episode(self, episode: Episode) -> Iterator[Finding]:
        idle = _idle(episode)
        if idle is not None and _is_idle(idle):
            message = f"{int(idle[1:].sum())} of {len(idle) - 1} steps after the first command no motion"
            yield self.at(episode, message, int(np.flatnonzero(idle[1:])[0]) + 1)


class FirstActionZero(Check):
    """Every arm dimension of an episode's first action, a motion, is 0 (at most 0.00001), while the robot moves
    later: the action of this step was never recorded. OpenVLA drops the step, Octo replaces it by the difference of
    states; copied as it is, it teaches the policy to wait at the start, where it then stays.
    """

    code, severity = "first_action_zero", "info"

    def of_episode(self, episode: Episode) -> Iterator[Finding]:
        idle, actions = _idle(episode), episode.actions
        if idle is None or actions is None or not episode.has_motions or len(idle) < 2 or _is_idle(idle):
            return
        arm = actions.values[0][~actions.is_gripper]
        if arm.size and np.abs(arm).max() <= ZERO and not idle[1:].all():
            yield self.at(episode, f"the {arm.size} arm dimensions of its first action are 0", 0)


def _is_idle(idle: np.ndarray) -> bool:
    return len(idle) >= FEWEST_STEPS and idle[1:].mean() > IDLE_SHARE


def _idle(episode: Episode) -> np.ndarray | None:
    """bool[t]; None where nothing can be said."""
    actions = episode.actions
    if actions is None or episode.subject.spec is None or not episode.num_steps:
        return None
    values = np.where(actions.usable[:, None], actions.values, np.inf)
    with np.errstate(invalid="ignore"):
        changes = np.abs(np.diff(values, axis=0, prepend=values[:1]))
    arm = np.abs(values) if episode.has_motions else changes
    commanded = np.where(actions.is_gripper, changes, arm)
    return np.all(commanded <= STILL, axis=1)
