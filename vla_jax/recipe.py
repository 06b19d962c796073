"""Recipes and command lines: `configs/NAME.py:VARIANT` and typed overrides to a RunConfig."""

from data_pipelines.recipe import load_recipe, override
from vla_jax.config import RunConfig

__all__ = ["load", "override"]


def load(name: str) -> RunConfig:
    """Args: name: `PATH.py` or `PATH.py:VARIANT`."""
    return load_recipe(name, RunConfig)
