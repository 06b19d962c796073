"""Checkpoints of a run: written in the background, sealed by digests, verified before they are trusted.

`vla_jax/run_directory.py` has the layout. Saving blocks for the copy from devices to host only. The folder is
written as `STEP.tmp`, made durable, given its manifest, and renamed last; what fails on the way leaves every
earlier step as it was. An error in the background is raised at the next `check` or save.

Orbax commits atomically but keeps no digest of its payload: a flipped bit in a committed checkpoint restores
silently without the manifest.
"""

import dataclasses
import itertools
import json
import logging
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from vla_jax import config as configuration
from vla_jax.config import RunConfig
from vla_jax.parameter_store import Arrays, commit, read_arrays, read_json, save_arguments, save_parameters
from vla_jax.run_directory import (
    MANIFEST,
    MANIFEST_VERSION,
    RunDirectory,
    file_digest,
    host_share,
    verify_manifest,
)
from vla_jax.training.state import TrainState, Watch
from vla_jax.types import InputError, Parameters

log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written. Those before it are intact."""


@dataclasses.dataclass(frozen=True)
class Restored:
    state: TrainState
    next_step: int
    """Data position: the step whose batch comes next."""


class Checkpoints:
    """Saves and restores the steps of one run."""

    def __init__(self, run: RunDirectory, *, keep: int):
        """Removes what an interrupted save left behind. Args: keep: committed steps that are kept."""
        self._run = run
        self._keep = keep
        self._checkpointer: ocp.AsyncCheckpointer | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        if _is_first():
            _require_writable(run.checkpoints)
            self._remove_leftovers()

    # ---- saving

    def save(self, state: TrainState, config: RunConfig, statistics: dict[str, Any], *, next_step: int) -> None:
        """Starts to save `state`, which may be donated as soon as this returns; waits for the save before it."""
        self.wait()
        step = int(state.step)
        temporary = self._run.checkpoints / f"{step}.tmp"
        if self._checkpointer is None:
            self._checkpointer = ocp.AsyncCheckpointer(
                ocp.CompositeCheckpointHandler(),
                temporary_path_class=ocp.path.atomicity.CommitFileTemporaryPath,
            )
        documents = {
            "config.json": configuration.to_json(config),
            "dataset_statistics.json": statistics,
            "data_position.json": {"next_step": next_step},
        }
        items = {name: save_arguments(arrays) for name, arrays in _items(state).items()}
        try:
            self._checkpointer.save(temporary.absolute(), args=ocp.args.Composite(**items))
        except Exception as error:
            raise self._failure(step, error) from error
        self._thread = threading.Thread(target=self._finish, args=(step, temporary, documents), name="checkpoint")
        self._thread.start()

    def check(self) -> None:
        """Raises CheckpointError if a save failed since the last call. Never waits."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Returns when nothing is under way; raises as `check` does."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def close(self) -> None:
        """Waits like `wait`, and stops Orbax's threads."""
        try:
            self.wait()
        finally:
            if self._checkpointer is not None:
                self._checkpointer.close()
                self._checkpointer = None
                self._remove_leftovers()

    def _finish(self, step: int, temporary: Path, documents: dict[str, Any]) -> None:
        assert self._checkpointer is not None
        try:
            self._checkpointer.wait_until_finished()
            digests = _digests_of_all_hosts(temporary)
            if _is_first():
                for name, document in documents.items():
                    (temporary / name).write_text(json.dumps(document, indent=1) + "\n")
                commit(temporary, self._run.step(step), digests)
                self._remove_old()
        except Exception as error:
            self._error = self._failure(step, error)
            self._error.__cause__ = error

    def _failure(self, step: int, error: Exception) -> CheckpointError:
        if _is_first():
            _remove(self._run.checkpoints / f"{step}.tmp")
        reason = str(error).strip().splitlines()
        return CheckpointError(
            f"{self._run.step(step)}: could not be written ({type(error).__name__}: {reason[0] if reason else ''}); "
            f"intact checkpoints: {self._run.committed_steps()}. Free some space or mend the folder, "
            "then run the same command again"
        )

    def _remove_old(self) -> None:
        for step in self._run.committed_steps()[: -self._keep]:
            shutil.rmtree(self._run.step(step))

    def _remove_leftovers(self) -> None:
        for leftover in self._run.checkpoints.glob("*.tmp*") if _is_first() else ():
            log.warning("%s: left behind by an interrupted save; removed", leftover)
            _remove(leftover)

    # ---- restoring

    def newest_good(self) -> int | None:
        """The newest step whose digests hold; damaged ones are renamed `STEP.damaged`. None: a fresh run.

        Each host reads a part of a step's files.

        Raises:
            InputError: there were checkpoints but none is whole, or one was written by a later version.
        """
        while (step := _of_first(self._newest())) >= 0:
            damage = self._damage(step)
            is_whole = _all_hosts(damage is None)
            if is_whole:
                return step
            if damage is not None:
                log.error("DAMAGED CHECKPOINT, not used: %s", damage)
            if _is_first():
                log.error("%s is kept as %s", self._run.step(step), _set_aside(self._run.step(step)))
        return None

    def _newest(self) -> int:
        """As the first process sees it; what others see may be older, and is not asked for. -1: there is none."""
        if not _is_first():
            return -1
        folders = [entry for entry in self._run.checkpoints.iterdir() if entry.is_dir()]
        steps = [int(folder.name) for folder in folders if folder.name.isdigit()]
        if steps:
            return max(steps)
        if damaged := sorted(folder.name for folder in self._run.checkpoints.glob("*.damaged*")):
            raise InputError(
                f"{self._run.checkpoints}: every checkpoint is damaged ({', '.join(damaged)}); restore one from a "
                "backup, or start again in another --run-dir"
            )
        return -1

    def _damage(self, step: int) -> InputError | None:
        folder = self._run.step(step)
        _refuse_later_version(folder)
        try:
            verify_manifest(folder, process=jax.process_index(), count=jax.process_count())
        except InputError as error:
            return error
        return None

    def restore(self, step: int, target: TrainState) -> Restored:
        """Args: target: abstract state with shardings; the mesh may differ from the one that saved."""
        folder = self._run.step(step)
        items = {name: _restore_item(folder / name, arrays) for name, arrays in _items(target).items()}
        progress = items["progress"]
        with_paths, optimizer_tree = jax.tree_util.tree_flatten_with_path(target.optimizer)
        state = TrainState(
            step=progress["step"],
            parameters=items["parameters"],
            optimizer=jax.tree.unflatten(optimizer_tree, [items["optimizer"][_name(path)] for path, _ in with_paths]),
            ema=items.get("ema"),
            key=jax.random.wrap_key_data(progress["key"]),
            bad_step=jax.device_put(np.int32(-1), target.bad_step.sharding),
            watch=Watch(**{name: progress[f"watch/{name}"] for name in vars(target.watch)}),
        )
        return Restored(state, read_json(folder / "data_position.json")["next_step"])


def save_frozen(run: RunDirectory, frozen: Parameters) -> None:
    """Frozen parameters, once a run, in float32. Replaces those of a start that never came to a checkpoint."""
    if frozen:
        save_parameters(run.frozen, frozen)
    elif _is_first() and run.frozen.exists():
        shutil.rmtree(run.frozen)


def restore_frozen(run: RunDirectory, shardings: dict[str, NamedSharding]) -> Parameters:
    if not shardings:
        return {}
    verify_manifest(run.frozen)
    return read_arrays(run.frozen / "parameters", shardings)


def _items(state: TrainState) -> dict[str, Arrays]:
    """The folders of a step, each a flat dictionary; works on abstract states, too."""
    key: Any
    if isinstance(state.key, jax.ShapeDtypeStruct):
        data = jax.eval_shape(jax.random.key_data, state.key)
        key = jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=state.key.sharding)
    else:
        key = jax.random.key_data(state.key)
    items = {
        "parameters": state.parameters,
        "optimizer": {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state.optimizer)},
        "progress": {"step": state.step, "key": key} | _watched(state.watch),
    }
    return items if state.ema is None else items | {"ema": state.ema}


def _watched(watch: Watch) -> dict[str, Any]:
    return {f"watch/{name}": value for name, value in vars(watch).items()}


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(str(getattr(entry, "name", getattr(entry, "key", getattr(entry, "idx", entry)))) for entry in path)


def _restore_item(folder: Path, target: dict[str, jax.ShapeDtypeStruct]) -> Parameters:
    arrays = read_arrays(folder, {path: leaf.sharding for path, leaf in target.items()})
    for path, leaf in target.items():
        found = arrays[path]
        if (found.shape, found.dtype) != (leaf.shape, leaf.dtype):
            raise InputError(
                f"{folder}: {path} is {found.dtype}{list(found.shape)}, this configuration makes it "
                f"{leaf.dtype}{list(leaf.shape)}; the run was written by other code"
            )
    return arrays


def _refuse_later_version(folder: Path) -> None:
    try:
        version = json.loads((folder / MANIFEST).read_text())["schema_version"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # damaged: verification says how
    if isinstance(version, int) and version > MANIFEST_VERSION:
        raise InputError(
            f"{folder / MANIFEST}: schema_version {version}, this version reads {MANIFEST_VERSION}; "
            "the checkpoint was written by a later version: use that one"
        )


def _require_writable(folder: Path) -> None:
    probe = folder / "probe.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.mkdir(exist_ok=True)
        probe.rmdir()
    except OSError as error:
        raise InputError(f"{folder}: checkpoints cannot be written there ({error}); give another --run-dir") from error


def _set_aside(folder: Path) -> Path:
    target, count = folder.with_name(folder.name + ".damaged"), 1
    while target.exists():
        count += 1
        target = folder.with_name(f"{folder.name}.damaged-{count}")
    return folder.rename(target)


def _remove(folder: Path) -> None:
    """Until nothing of it is left, or for three seconds: another part of a failed save may still be writing there."""
    deadline = time.monotonic() + 3
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.02)


def _digests_of_all_hosts(folder: Path) -> dict[Path, str]:
    """What each host read of its own files, for the first one: a large checkpoint is not read through one of them."""
    if jax.process_count() == 1:
        return {}
    mine = {
        path.relative_to(folder).as_posix(): file_digest(path)
        for path in host_share(folder, jax.process_index(), jax.process_count())
    }
    beside = folder.with_name(f"{folder.name}-digests")
    beside.mkdir(exist_ok=True)
    (beside / f"{jax.process_index()}.json").write_text(json.dumps(mine))
    wait = ocp.multihost.get_barrier_sync_fn()
    wait(key=f"{folder.absolute()}/digests/{next(_BARRIERS)}", timeout_ms=_LONGEST_DIGESTS_MS)
    if not _is_first():
        return {}
    digests = {
        folder / name: digest for part in beside.glob("*.json") for name, digest in json.loads(part.read_text()).items()
    }
    shutil.rmtree(beside)
    return digests


_BARRIERS = itertools.count()
"""A name that no earlier save of this process had, and the same on all: they save together."""
_LONGEST_DIGESTS_MS = 3600 * 1000


def _of_first(number: int) -> int:
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def _all_hosts(is_so: bool) -> bool:
    if jax.process_count() == 1:
        return is_so
    return bool(np.all(multihost_utils.process_allgather(np.bool_(is_so))))


def _is_first() -> bool:
    return jax.process_index() == 0
