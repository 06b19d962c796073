"""How a task is told: by its instruction, by the picture of its goal, or by both.

Source: Octo's `delete_task_conditioning` (keep_image_prob=0.5 in pretraining): one of the two is left out. Of a task
that has only one nothing is.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class OneTelling:
    keep_goal: float = 0.5
    """Probability that the goal stays and the instruction goes."""

    def __call__(self, has_text: bool, has_goal: bool, generator: np.random.Generator) -> tuple[bool, bool]:
        """Whether the instruction and the goal stay."""
        goal_stays = bool(generator.random() < self.keep_goal)
        if not (has_text and has_goal):
            return has_text, has_goal
        return not goal_stays, goal_stays
