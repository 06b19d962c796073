"""Goal relabelling: a later step of the same episode becomes the goal.

Actions from the goal on are not supervised (`Chunk.before`). Where the goal is left out and the instruction stays, all
are: the instruction goes on to the episode's end. Octo masks those too.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class UniformGoal:
    """Drawn evenly from the present step to the episode's last. Source: Octo (`goal_relabeling.uniform`)."""

    furthest: int | None = None
    """Steps ahead at most."""

    def __call__(self, row: int, last: int, generator: np.random.Generator) -> int:
        """Args: row: the present step, the last that the policy sees; last: of the episode."""
        end = last if self.furthest is None else min(last, row + self.furthest)
        return int(generator.integers(row, end + 1))
