"""config.json and env.json: what a run is made with. The first binds its later starts, the second is a record."""

import dataclasses
import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from vla_jax import config as configuration
from vla_jax.config import RunConfig, TokenizerConfig
from vla_jax.run_directory import RunDirectory
from vla_jax.types import InputError

_PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers", "vla_jax")


def refuse_changed_config(run: RunDirectory, config: RunConfig) -> None:
    """A run keeps the configuration it started with, but for the keys that may change."""
    if not run.config.exists():
        return
    if changes := configuration.changes_that_forbid_resume(configuration.load(run.config), config):
        raise InputError(
            f"{run.config}: this run was started with another configuration; " + "; ".join(changes) + ". Give the "
            "same values again, or another --run-dir"
        )


def tokenizer_config(run: RunDirectory, config: RunConfig) -> TokenizerConfig:
    """The run's own copy of its vocabulary, once it has one: a file that changed since cannot shift its ids."""
    if (run.tokenizer / "tokenizer.json").is_file():
        return dataclasses.replace(config.tokenizer, path=str(run.tokenizer))
    return config.tokenizer


def record(run: RunDirectory, config: RunConfig) -> None:
    """Writes both files, each whole or not at all."""
    for path, document in ((run.config, configuration.to_json(config)), (run.environment, describe())):
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(json.dumps(document, indent=2) + "\n")
        temporary.replace(path)


def describe() -> dict[str, Any]:
    devices = jax.devices()
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "devices": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        "processes": jax.process_count(),
        "git": _git(Path(__file__).parent),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: Path) -> dict[str, Any] | None:
    """Revision, and whether tracked files differ from it; None outside a checkout."""
    try:
        revision, changes = (
            subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
            for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"revision": revision, "modified": bool(changes)}
