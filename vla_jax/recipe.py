"""Recipes and command lines: `configs/NAME.py:VARIANT` and typed overrides to a RunConfig.

A recipe is a Python file with `get_config() -> RunConfig` and one function a variant. It is code of the user's,
run like any script; configurations that travel with checkpoints are JSON and never run anything.
"""

import contextlib
import importlib.util
import inspect
import io
from collections.abc import Sequence
from pathlib import Path

import tyro

from vla_jax.config import RunConfig
from vla_jax.types import InputError

_BOX = str.maketrans("│╰╯─┤├", " " * 6)


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
    config = maker()
    if not isinstance(config, RunConfig):
        raise InputError(f"--config {name}: {maker.__name__}() gives a {type(config).__name__}, expected a RunConfig")
    return config


def override(config: RunConfig, arguments: Sequence[str], *, program: str) -> RunConfig:
    """Applies `--dotted.key value` arguments; unknown keys and unfit values are InputErrors. `--help` exits 0."""
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(
                type(config),
                default=config,
                args=list(arguments),
                prog=program,
                config=(tyro.conf.AvoidSubcommands,),
            )
    except SystemExit as exit_:
        if not exit_.code:
            raise
        boxed = [line for line in message.getvalue().splitlines() if not line.startswith("╭")]
        raise InputError("command line: " + " ".join(" ".join(boxed).translate(_BOX).split())) from None
