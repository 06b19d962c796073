"""Arrays on disk by path, and the one way to read parameters: from a run, or from a parameter folder.

    FOLDER/parameters/              arrays by path, any floating dtype (Orbax), or
    FOLDER/parameters.safetensors   the same, mapped into memory: what `import` writes, of weights of any size
    FOLDER/MANIFEST.json            digests; may also hold config.json, dataset_statistics.json, tokenizer files

A checkpoint step `RUN/checkpoints/STEP` is such a folder too, but without the frozen parameters; `load_parameters`
puts them together. Reading never changes a folder.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from jax.sharding import Sharding

from vla_jax.lazy_tensor import Index, LazyTensor, of_array
from vla_jax.placement import put
from vla_jax.run_directory import MANIFEST, RunDirectory, verify_manifest, write_manifest
from vla_jax.tensor_file import PARAMETERS_FILE, read_tensor_file
from vla_jax.types import InputError, Parameters

Arrays = dict[str, Any]
"""`jax.Array` or `np.ndarray` by path."""
Weights = Literal["ema", "raw"]


@dataclasses.dataclass(frozen=True)
class StoredParameters:
    """All parameters of a policy, frozen ones included, with what lies beside them."""

    parameters: Parameters
    folder: Path
    """Where `config.json` and `dataset_statistics.json` lie, where there are any."""
    step: int | None
    """Finished optimizer steps; None for a parameter folder."""
    weights: Weights
    """What was read: `raw` where there is no moving average."""

    @property
    def config_file(self) -> Path:
        """For `vla_jax.config.load`."""
        return self.folder / "config.json"

    def statistics(self) -> dict[str, Any]:
        return read_json(self.folder / "dataset_statistics.json")


def load_parameters(
    path: Path | str,
    *,
    step: int | None = None,
    weights: Weights = "ema",
    shardings: Mapping[str, Sharding] | None = None,
) -> StoredParameters:
    """Reads a run's (or a parameter folder's) parameters after verifying every digest.

    Args:
        path: a run directory, or a parameter folder.
        step: of a run; None: its newest committed step.
        weights: `ema` where the run keeps one, else the raw weights.
        shardings: by path; None: numpy arrays on the host, views of the mapped file where it is one.

    Raises:
        InputError: nothing there, or a file missing or damaged. Another step is never taken instead.
    """
    path = Path(path)
    run = RunDirectory(path)
    if run.checkpoints.is_dir():
        return _load_run(run, step, weights, shardings)
    if step is not None:
        raise InputError(f"{path}: step {step} was asked for, but this is no run directory (no checkpoints/ in it)")
    if not (path / "parameters").is_dir() and not (path / PARAMETERS_FILE).is_file():
        raise InputError(
            f"{path}: neither a run (checkpoints/) nor a parameter folder (parameters/ or {PARAMETERS_FILE}, and "
            f"{MANIFEST})"
        )
    verify_manifest(path)
    if (path / PARAMETERS_FILE).is_file():
        return StoredParameters(_read_mapped(path / PARAMETERS_FILE, shardings), path, None, "raw")
    return StoredParameters(_read(path / "parameters", shardings), path, None, "raw")


def _load_run(run: RunDirectory, step: int | None, weights: Weights, shardings) -> StoredParameters:
    steps = run.committed_steps()
    if not steps or (step is not None and step not in steps):
        wanted = "any step" if step is None else f"step {step}"
        damaged = sorted(folder.name for folder in run.checkpoints.glob("*.damaged*"))
        aside = f"; set aside because they are damaged: {', '.join(damaged)}" if damaged else ""
        raise InputError(f"{run.checkpoints}: no committed checkpoint of {wanted}; there are {steps}{aside}")
    folder = run.step(steps[-1] if step is None else step)
    verify_manifest(folder)
    if weights == "ema" and not (folder / "ema").is_dir():
        weights = "raw"
    parameters = _read(folder / ("ema" if weights == "ema" else "parameters"), shardings)
    if run.frozen.is_dir():
        verify_manifest(run.frozen)
        parameters |= _read(run.frozen / "parameters", shardings)
    return StoredParameters(parameters, folder, int(folder.name), weights)


def _read(folder: Path, shardings: Mapping[str, Sharding] | None) -> Arrays:
    if shardings is None:
        return read_arrays(folder)
    return read_arrays(folder, {path: shardings[path] for path in array_paths(folder) if path in shardings})


def _read_mapped(file: Path, shardings: Mapping[str, Sharding] | None) -> Arrays:
    arrays = read_tensor_file(file)
    if shardings is None:
        return dict(arrays)
    return {path: put(of_array(array), shardings[path]) for path, array in arrays.items() if path in shardings}


def save_parameters(folder: Path, parameters: Arrays, *, documents: dict[str, Any] | None = None) -> None:
    """Writes a parameter folder, whole or not at all; one that stands there is replaced.

    Args: documents: further files, JSON by name (`config.json`, ...).
    """
    temporary = folder.with_name(folder.name + ".tmp")
    if jax.process_index() == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    write_arrays(temporary / "parameters", parameters)
    if jax.process_index() == 0:
        for name, document in (documents or {}).items():
            (temporary / name).write_text(json.dumps(document, indent=1) + "\n")
        commit(temporary, folder)


def commit(temporary: Path, folder: Path, digests: Mapping[Path, str] | None = None) -> None:
    """Makes a finished folder durable, seals it with its manifest and gives it its name.

    Args: digests: as of `write_manifest`.
    """
    write_manifest(temporary, digests)
    sync_tree(temporary)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
    sync(folder.parent)


CHUNK_BYTES = 64 * 2**20
"""Of what is read whole or not at all: a device's part at most, and a part of that where it is larger."""


def save_arguments(arrays: Arrays) -> ocp.args.PyTreeSave:
    return ocp.args.PyTreeSave(arrays, save_args=dict.fromkeys(arrays, ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES)))


def write_arrays(folder: Path, arrays: Arrays) -> None:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(folder.absolute(), args=save_arguments(arrays))


def array_paths(folder: Path) -> list[str]:
    return sorted(_metadata(folder))


def _metadata(folder: Path) -> dict[str, Any]:
    try:
        return ocp.PyTreeCheckpointHandler().metadata(folder.absolute()).tree
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder}: not a readable array folder ({error})") from error


def read_arrays(folder: Path, shardings: Mapping[str, Sharding] | None = None) -> Arrays:
    """Reads the arrays in `shardings`, each straight into its sharding; None: all, as numpy arrays.

    One after the other: the host holds what its devices get and some chunks, never a second copy of the model. Orbax
    reads all arrays at once, and takes a second for each where it is asked for one by one.
    """
    paths = array_paths(folder)
    if shardings is None:
        return {path: tensor.read() for path, tensor in _stored(folder, paths)}
    if missing := sorted(shardings.keys() - set(paths)):
        raise InputError(f"{folder}: {missing[:5]} are missing ({len(missing)} arrays)")
    return {path: put(tensor, shardings[path]) for path, tensor in _stored(folder, sorted(shardings))}


@dataclasses.dataclass(frozen=True)
class StoredTensor(LazyTensor):
    """An array as Orbax writes it: zarr chunks in an OCDBT store."""

    store: tensorstore.TensorStore

    def fill(self, buffer: np.ndarray, index: Index) -> None:
        tensorstore.array(buffer, copy=False, write=True).write(self.store[index]).result()


def _stored(folder: Path, paths: list[str]) -> Iterator[tuple[str, StoredTensor]]:
    chunks = {"cache_pool": {"total_bytes_limit": 2 * CHUNK_BYTES}, "data_copy_concurrency": {"limit": 2}}
    context = tensorstore.Context(chunks)
    base = {"driver": "ocdbt", "base": folder.absolute().as_uri() + "/"}
    for path in paths:
        spec = {"driver": "zarr", "kvstore": base | {"path": path + "/"}}
        try:
            store = tensorstore.open(spec, open=True, context=context).result()
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}: {path} is not readable ({error})") from error
        yield path, StoredTensor(tuple(store.shape), store.dtype.numpy_dtype, (), store)


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable JSON ({error})") from error


def sync_tree(folder: Path) -> None:
    """fsync of every file and folder beneath, so that a rename that follows never outlives its content."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
