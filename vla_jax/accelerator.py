"""Which backend JAX starts on, and whether several processes form one run.

`choose_platform` and `join_processes` come before the first array.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import orbax.checkpoint as ocp

_DEVICE_FILES = ("accel*", "vfio/[0-9]*", "nvidia[0-9]*", "kfd", "dxg")
_PROCESS_COUNTS = ("JAX_NUM_PROCESSES", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
_LONGEST_BUILD_MS = 24 * 3600 * 1000


def choose_platform() -> None:
    """Where nothing is asked for and no accelerator is attached, the CPU: an installed libtpu would print errors."""
    asked = os.environ.get("JAX_PLATFORMS") or getattr(jax.config, "jax_platforms", None)
    attached = any(next(Path("/dev").glob(pattern), None) for pattern in _DEVICE_FILES)
    if not asked and not attached and "TPU_WORKER_HOSTNAMES" not in os.environ:
        jax.config.update("jax_platforms", "cpu")


def join_processes() -> None:
    """Joins the other processes where the environment names them.

    By JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID, SLURM, Open MPI, or the TPU runtime of a pod.
    """
    environment = os.environ
    if "JAX_COORDINATOR_ADDRESS" in environment and "JAX_PROCESS_ID" in environment:
        jax.distributed.initialize(
            num_processes=int(environment["JAX_NUM_PROCESSES"]), process_id=int(environment["JAX_PROCESS_ID"])
        )
    elif any(int(environment.get(name) or 1) > 1 for name in _PROCESS_COUNTS) or _is_tpu_pod(environment):
        jax.distributed.initialize()


def _is_tpu_pod(environment: os._Environ[str]) -> bool:
    """Several workers named by the TPU runtime; a GCE TPU VM names itself `localhost` when it is alone."""
    return "," in environment.get("TPU_WORKER_HOSTNAMES", "")


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
