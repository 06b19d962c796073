"""Recipes and command lines: `configs/NAME.py:VARIANT` and typed overrides to a RunConfig.

A recipe is a Python file with `get_config() -> RunConfig` and one function a variant. It is code of the user's,
run like any script; configurations that travel with checkpoints are JSON and never run anything.
"""

import contextlib
import importlib.util
import inspect
import traceback
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.recipe import override
from vla_jax.config import RunConfig
from vla_jax.types import InputError

__all__ = ["load", "override"]


def load(name: str) -> RunConfig:
    """Args: name: `PATH.py` or `PATH.py:VARIANT`."""
    path, _, variant = name.partition(":")
    file = Path(path)
    if not file.is_file():
        raise InputError(
            f"--config {name}: there is no file {file}; a recipe is configs/NAME.py or configs/NAME.py:VARIANT"
        )
    spec = importlib.util.spec_from_file_location(f"recipe_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise InputError(f"--config {name}: {file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    with _broken_recipe_refused(name, file):
        spec.loader.exec_module(module)
    variants = {
        function: maker
        for function, maker in inspect.getmembers(module, inspect.isfunction)
        if maker.__module__ == module.__name__ and not function.startswith("_")
    }
    maker = variants.get(variant or "get_config")
    if maker is None:
        named = sorted(variants.keys() - {"get_config"})
        raise InputError(f"--config {name}: {file} has no {variant or 'get_config'}(); its variants are {named}")
    with _broken_recipe_refused(name, file):
        config = maker()
    if not isinstance(config, RunConfig):
        raise InputError(f"--config {name}: {maker.__name__}() gives a {type(config).__name__}, expected a RunConfig")
    return config


@contextlib.contextmanager
def _broken_recipe_refused(name: str, file: Path) -> Iterator[None]:
    """What cannot be read or imported is the caller's to mend; any other exception is a bug with its traceback."""
    try:
        yield
    except SyntaxError as error:
        raise InputError(f"--config {name}: {error.filename}, line {error.lineno}: {error.msg}") from error
    except ImportError as error:
        own = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        line = f", line {own[-1]}" if own else ""
        raise InputError(f"--config {name}: {file}{line}: {type(error).__name__}: {error}") from error
