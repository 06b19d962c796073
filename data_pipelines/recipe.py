"""The configuration of `configs/NAME.py[:VARIANT]`, a recipe, and `--dotted.key value` on it.

A recipe is a Python file with `get_config()` and one function a variant. It is code of the user's, run like any script;
configurations that travel with checkpoints are JSON and never run anything.
"""

import contextlib
import importlib.util
import inspect
import io
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from data_pipelines.config import DataConfig
from vla_jax.types import ActionSpace, DataRequirements, InputError

Config = TypeVar("Config")


def load_recipe(name: str, expected: type | None = None) -> Any:
    """What the recipe's function gives.

    Args: name: `PATH.py` or `PATH.py:VARIANT`, as `--config` gives it. expected: the class that it has to be; without
    one, anything with an `action_space`, which is all that the commands of this package ask of a RunConfig.
    """
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
    sys.modules[module.__name__] = module  # where types of a recipe's own dataclasses are looked up
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
    if expected is None:
        fits, wanted = isinstance(getattr(config, "action_space", None), ActionSpace), "a RunConfig with an ActionSpace"
    else:
        fits, wanted = isinstance(config, expected), f"a {expected.__name__}"
    if not fits:
        raise InputError(f"--config {name}: {maker.__name__}() gives a {type(config).__name__}, expected {wanted}")
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
    instead = (
        f"did you mean {' or '.join(offered)}?"
        if offered
        else "`train.py --config RECIPE --help` lists those there are"
    )
    return f"{', '.join(unknown)}: no such key; {instead}"
