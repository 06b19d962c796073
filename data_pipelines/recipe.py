"""The configuration of `configs/NAME.py[:VARIANT]`; a recipe is code of the user's own.

`vla_jax.recipe.load` reads a whole RunConfig, which this package may not import.
"""

import importlib.util
import inspect
from pathlib import Path
from typing import Any

from vla_jax.types import ActionSpace, InputError


def load_recipe(name: str) -> Any:
    """What a RunConfig is; its `action_space` is checked, nothing else. Args: name: as `--config` gives it."""
    path, _, variant = name.partition(":")
    if not Path(path).is_file():
        raise InputError(f"--config {name}: no file {path}")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"--config {name}: {path} is not a Python file")
    recipe = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(recipe)
    except SyntaxError as error:
        raise InputError(f"--config {name}: {error.filename}, line {error.lineno}: {error.msg}; mend it") from error
    except ImportError as error:
        raise InputError(f"--config {name}: {path}: {type(error).__name__}: {error}") from error
    variant = variant or "get_config"
    function = getattr(recipe, variant, None)
    if not inspect.isfunction(function):
        raise InputError(f"--config {name}: {path} has no function {variant}()")
    config = function()
    if not isinstance(getattr(config, "action_space", None), ActionSpace):
        raise InputError(
            f"--config {name}: {variant}() gives a {type(config).__name__} without an ActionSpace, expected a RunConfig"
        )
    return config
