"""A table, coloured blocks and plates, two robots; plain MuJoCo.

What every environment's package has: `EMBODIMENTS`, `SUITES`, `build`, `build_expert`. Importing it does not import
MuJoCo, which reads its GL backend at import: see `graphics.py`.
"""

from typing import TYPE_CHECKING

from vla_jax.environments.tabletop import suites

if TYPE_CHECKING:
    from vla_jax.environments.tabletop.environment import Tabletop
    from vla_jax.environments.tabletop.expert import Expert

EMBODIMENTS = ("gantry", "arm")
SUITES = {name: tuple(task.name for task in suite.tasks) for name, suite in suites.SUITES.items()}
"""Suite -> its tasks' names."""


def build(embodiment: str, image_size: int | None) -> "Tabletop":
    from vla_jax.environments.tabletop.environment import Tabletop

    return Tabletop(embodiment, image_size)


def build_expert(environment: "Tabletop") -> "Expert":
    """Of the trial that the environment was reset to."""
    from vla_jax.environments.tabletop.expert import Expert

    return Expert(environment)
