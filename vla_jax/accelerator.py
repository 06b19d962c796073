"""Which backend JAX starts on, and whether several processes form one run.

`choose_platform` and `join_processes` come before the first array.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from vla_jax.types import InputError

_TPU_FILES = ("accel[0-9]*", "vfio/[0-9]*")
_DEVICE_FILES = (*_TPU_FILES, "nvidia[0-9]*", "kfd", "dxg")
_PROCESS_COUNTS = ("JAX_NUM_PROCESSES", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
_TPU_HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
_TPU_SLICES = "MEGASCALE_COORDINATOR_ADDRESS"
_LONGEST_BUILD_MS = 24 * 3600 * 1000


def choose_platform() -> None:
    """Where nothing is asked for and no accelerator is attached, the CPU: an installed libtpu would print errors."""
    asked = os.environ.get("JAX_PLATFORMS") or getattr(jax.config, "jax_platforms", None)
    if not asked and not _has_any(_DEVICE_FILES) and "TPU_WORKER_HOSTNAMES" not in os.environ:
        jax.config.update("jax_platforms", "cpu")


def join_processes() -> None:
    """Joins the other processes where `cluster` says that there may be some; InputError where JAX finds none."""
    found = cluster(os.environ, has_tpu_files=_has_any(_TPU_FILES))
    if found is None:
        return
    try:
        jax.distributed.initialize(**found)
    except (OSError, ValueError) as error:
        raise InputError(
            f"JAX does not find the cluster that this process belongs to: {error}. On a TPU host install "
            "requirements-tpu.txt; a TPU host that is alone and has no metadata server sets TPU_SKIP_MDS_QUERY=1; "
            "elsewhere set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from error


def leave_others(code: int) -> int:
    """After a failure: where there are other processes, this one ends at once with `code`.

    On the way of a normal exit JAX waits for the others, minutes long, and one of them may be why this one failed.
    """
    if jax.distributed.is_initialized():
        sys.stderr.flush()
        os._exit(code)
    return code


def cluster(environment: Mapping[str, str], *, has_tpu_files: bool) -> dict[str, Any] | None:
    """What `jax.distributed.initialize` is to be told; nothing where it detects all; None: this process is alone.

    Named by JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID, or detected by JAX: SLURM, Open MPI,
    and every TPU host, for the other hosts of its pod stand in the metadata server, not in the environment.
    `import jax` sets TPU_SKIP_MDS_QUERY where no TPU is on the PCI bus, as GKE does; there variables
    name the hosts, and one that names only itself is alone.
    """
    if "JAX_COORDINATOR_ADDRESS" in environment and "JAX_PROCESS_ID" in environment:
        return {
            "num_processes": int(environment["JAX_NUM_PROCESSES"]),
            "process_id": int(environment["JAX_PROCESS_ID"]),
        }
    if any(int(environment.get(name) or 1) > 1 for name in _PROCESS_COUNTS):
        return {}
    platforms = environment.get("JAX_PLATFORMS") or "tpu"
    is_tpu_host = has_tpu_files and "tpu" in platforms.split(",")
    names_hosts = any("," in environment.get(name, "") for name in _TPU_HOSTS)
    may_have_others = names_hosts or _TPU_SLICES in environment or "TPU_SKIP_MDS_QUERY" not in environment
    return {} if is_tpu_host and may_have_others else None


def _has_any(device_files: tuple[str, ...]) -> bool:
    return any(next(Path("/dev").glob(pattern), None) for pattern in device_files)


@contextlib.contextmanager
def first_process_first(name: str) -> Iterator[None]:
    """Process 0 runs the body, then the others do: they find what it built. Args: name: of its own a run.

    A barrier of the coordination service: one between devices gives up on the CPU after 30 seconds.
    """
    wait = ocp.multihost.get_barrier_sync_fn()
    if jax.process_index() != 0:
        wait(key=name, timeout_ms=_LONGEST_BUILD_MS)
    yield
    if jax.process_index() == 0:
        wait(key=name, timeout_ms=_LONGEST_BUILD_MS)
