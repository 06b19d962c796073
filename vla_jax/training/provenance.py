"""config.json and env.json: what a run is made with, and what binds its later starts.

From its first checkpoint on, a run keeps its configuration, its data and its vocabulary. Before, nothing was trained
yet: a start that failed is mended by the same command with other values.
"""

import dataclasses
import json
import platform
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from vla_jax import config as configuration
from vla_jax.config import RunConfig, TokenizerConfig
from vla_jax.parameter_store import read_json
from vla_jax.run_directory import RunDirectory
from vla_jax.types import InputError

_PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers", "vla_jax")


def has_checkpoints(run: RunDirectory) -> bool:
    """Damaged ones count: there was training that a new start must not replace silently."""
    return any(".tmp" not in folder.name for folder in run.checkpoints.glob("[0-9]*"))


def refuse_file(run: RunDirectory) -> None:
    """What stands at `--run-dir`, or at the nearest of its parents that exists, must be a folder."""
    found = next(place for place in (run.path, *run.path.absolute().parents) if place.exists())
    if not found.is_dir():
        raise InputError(f"--run-dir {run.path}: {found} is a file; a folder, or a name for a new one, is expected")


def refuse_changed_config(run: RunDirectory, config: RunConfig) -> None:
    """A run keeps the configuration it started with, but for the keys that may change."""
    if not (has_checkpoints(run) and run.config.exists()):
        return
    if changes := configuration.changes_that_forbid_resume(configuration.load(run.config), config):
        raise InputError(
            f"{run.config}: this run was started with another configuration; " + "; ".join(changes) + ". Give the "
            "same values again, or another --run-dir"
        )


def refuse_other_data(checkpoint: Path, statistics: dict[str, Any]) -> None:
    """A run may find its data in another folder, but they must be the same: each dataset's `key` tells, and `files` of
    the wordings and boxes.
    """
    path = checkpoint / "dataset_statistics.json"
    saved = read_json(path)
    for name in sorted(saved.keys() | statistics.keys()):
        before, now = saved.get(name, {}), statistics.get(name, {})
        if any(before.get(part) != now.get(part) for part in ("key", "files")):
            same_key = before.get("key") == now.get("key")
            keys = "the same key" if same_key else f"key {before.get('key')} in the run, {now.get('key')} now"
            raise InputError(
                f"{path}: dataset {name} has {keys}. What differs: "
                f"{_differences(before, now)}. Restore what the run was started with, or start a new one in another "
                "--run-dir with --init-from this one"
            )


def _differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Between what two statistics of a dataset were made from."""
    if not (before and now):
        return "it is in the mixture only " + ("in the run" if before else "now")
    old, new = (tree.get("made_from", {}) | tree.get("files", {}) for tree in (before, now))
    if before.get("key") != now.get("key") and not ("made_from" in before and "made_from" in now):
        return "its shards, its version or the code that standardises them"
    changed = sorted(part for part in old.keys() | new.keys() if old.get(part) != new.get(part))
    return "; ".join(f"{part}: {old.get(part, 'none')} in the run, {new.get(part, 'none')} now" for part in changed)


def refuse_forgotten_source(run: RunDirectory, init_from: Path | None) -> None:
    """A fine-tune that never came to a checkpoint would start again from the seed."""
    source = source_of(run)
    if source is not None and init_from is None and not has_checkpoints(run):
        raise InputError(
            f"{run.environment}: this run began with --init-from {source} and has no checkpoint yet; give "
            "--init-from again, or another --run-dir"
        )


def source_of(run: RunDirectory) -> Path | None:
    """What `--init-from` named when the run began."""
    source = read_json(run.environment).get("init_from") if run.environment.exists() else None
    return None if source is None else Path(source)


def tokenizer_config(run: RunDirectory, config: RunConfig, init_from: Path | None) -> TokenizerConfig:
    """Where the vocabulary of this start lies.

    A run that has trained reads its own copy: a file that changed since cannot shift its ids. A fine-tune takes its
    source's where there is one, in FOLDER/tokenizer or FOLDER: with other ids the text encoder's weights mean nothing.
    """
    if has_checkpoints(run):
        return _in_folder(run.tokenizer, config.tokenizer) or config.tokenizer
    theirs = None
    if init_from is not None:
        theirs = _in_folder(init_from / "tokenizer", config.tokenizer) or _in_folder(init_from, config.tokenizer)
    if theirs is None:
        return config.tokenizer
    is_default = config.tokenizer == TokenizerConfig()
    length = config.policy.data_requirements().text_length
    if not is_default and _definition(config.tokenizer, length) != _definition(theirs, length):
        ours = config.tokenizer.path or f"the built-in vocabulary of {config.tokenizer.vocab_size}"
        raise InputError(
            f"tokenizer: {ours} is configured, but --init-from {init_from} reads text with {theirs.path}/tokenizer.json"
            ", and they differ. Leave --tokenizer.path out, and vocab_size at its default: the source's is then used"
        )
    return theirs


def _in_folder(folder: Path, config: TokenizerConfig) -> TokenizerConfig | None:
    return dataclasses.replace(config, path=str(folder)) if (folder / "tokenizer.json").is_file() else None


def _definition(config: TokenizerConfig, text_length: int) -> bytes:
    """`tokenizer.json` as this project writes it, so that layout and padding settings make no difference."""
    with tempfile.TemporaryDirectory() as folder:
        config.build(text_length).save(Path(folder))
        return (Path(folder) / "tokenizer.json").read_bytes()


def record(run: RunDirectory, config: RunConfig, init_from: Path | None) -> None:
    """Writes both files, each whole or not at all."""
    environment = describe() | {"init_from": None if init_from is None else str(init_from.absolute())}
    for path, document in ((run.config, configuration.to_json(config)), (run.environment, environment)):
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
