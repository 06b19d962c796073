"""The configuration of `configs/NAME.py[:VARIANT]`, a recipe: code of the user's own; and `--dotted.key value` on it.

`vla_jax.recipe.load` reads a whole RunConfig, which this package may not import.
"""

import contextlib
import importlib.util
import inspect
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from data_pipelines.config import DataConfig
from vla_jax.types import ActionSpace, DataRequirements, InputError

Config = TypeVar("Config")


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


def data_requirements(config: Any, name: str) -> DataRequirements:
    """What the recipe's policy reads. Args: name: as `--config` gave it."""
    policy: Any = getattr(config, "policy", None)
    if not hasattr(policy, "data_requirements") or not isinstance(getattr(config, "data", None), DataConfig):
        raise InputError(f"--config {name}: it has no data, or no policy that says what it reads; expected a RunConfig")
    return policy.data_requirements()


def override(config: Config, arguments: Sequence[str], *, program: str) -> Config:
    """Applies `--dotted.key value` arguments; unknown keys and unfit values are InputErrors. `--help` exits 0."""
    if not arguments:
        return config
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
        cause: BaseException | None = exit_
        while cause is not None:
            if isinstance(cause, InputError):  # a configuration's own check
                raise cause from None
            cause = cause.__context__
        raise InputError(_sentence(message.getvalue())) from None


def _sentence(message: str) -> str:
    """One sentence out of tyro's box: its first section, and the keys it offers instead."""
    lines = [line.strip("│ ") for line in message.splitlines()]
    lines = lines[1:] if lines[0].startswith("╭") else lines[2:]  # its title; where only ASCII prints, a rule below it
    end = next((number for number, line in enumerate(lines) if re.match("─{3}|-{3}|╰", line)), len(lines))
    said = " ".join(lines[:end])
    kind, _, named = said.partition(": ")
    if kind != "Unrecognized options":
        return said.removeprefix("Error parsing ")
    words = named.split(", ")
    unknown = [word.partition("=")[0] for word in words if word.startswith("--")] or words
    offered = dict.fromkeys(re.findall(r"^--\w[\w.-]*", "\n".join(lines[end:]), re.MULTILINE))
    instead = f"did you mean {' or '.join(offered)}?" if offered else "--help lists those there are"
    return f"{', '.join(unknown)}: no such key; {instead}"
