"""The backend is chosen only where nothing was asked for; processes join where JAX can find the others."""

import os
import socket
import subprocess
import sys

import jax
import pytest

from tests.conftest import ROOT, one_device
from vla_jax import accelerator
from vla_jax.types import InputError

CHOICE = """
from pathlib import Path
import jax
from vla_jax import accelerator
if {attached}:
    accelerator._DEVICE_FILES = ("null",)
accelerator.choose_platform()
print(jax.config.jax_platforms)
"""


@pytest.mark.parametrize(
    ("asked", "attached", "chosen"), [(None, False, "cpu"), (None, True, "None"), ("tpu,cpu", False, "tpu,cpu")]
)
def test_the_cpu_is_chosen_only_where_there_is_nothing_else(asked, attached, chosen):
    environment = {name: value for name, value in one_device().items() if name != "JAX_PLATFORMS"}
    if asked:
        environment["JAX_PLATFORMS"] = asked
    script = CHOICE.format(attached=attached)
    if not attached:
        script = script.replace("accelerator.choose", 'accelerator._DEVICE_FILES = ("nothing",)\naccelerator.choose')
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == chosen, done.stderr


NAMED = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:99", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "2"}


@pytest.mark.parametrize(
    ("environment", "has_tpu_files", "told"),
    [
        ({}, False, None),
        ({}, True, {}),  # a TPU VM reached by ssh: only the metadata server knows the pod
        ({"JAX_PLATFORMS": ""}, True, {}),
        ({"JAX_PLATFORMS": "tpu,cpu"}, True, {}),
        ({"JAX_PLATFORMS": "cpu"}, True, None),
        ({"JAX_PLATFORMS": "cuda,cpu"}, True, None),
        ({"TPU_SKIP_MDS_QUERY": "1"}, True, None),  # no TPU on the bus, whatever the file is for
        ({"TPU_SKIP_MDS_QUERY": "true", "TPU_WORKER_HOSTNAMES": "a,b"}, True, {}),  # GKE
        ({"TPU_SKIP_MDS_QUERY": "true", "TPU_WORKER_HOSTNAMES": "localhost"}, True, None),
        ({"TPU_SKIP_MDS_QUERY": "true", "MEGASCALE_COORDINATOR_ADDRESS": "a"}, True, {}),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, False, None),
        (NAMED, False, {"num_processes": 4, "process_id": 2}),
        (NAMED | {"JAX_PLATFORMS": "cpu"}, True, {"num_processes": 4, "process_id": 2}),
        ({"SLURM_NTASKS": "8"}, False, {}),
        ({"SLURM_NTASKS": "1"}, False, None),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, False, {}),
    ],
)
def test_a_process_joins_others_where_they_are_named_or_on_every_tpu_host(environment, has_tpu_files, told):
    assert accelerator.cluster(environment, has_tpu_files=has_tpu_files) == told


JOINS = """
import jax
from vla_jax import accelerator
accelerator.choose_platform()
accelerator.join_processes()
print(jax.process_index(), jax.process_count(), jax.device_count())
"""


def test_tasks_of_slurm_find_one_another_one_a_node_with_all_of_its_devices():
    """As the launch file starts them: by themselves JAX would give each task one device."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    slurm = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
    slurm |= {"JAX_COORDINATOR_PORT": port, "JAX_LOCAL_DEVICE_IDS": "0,1"}
    slurm |= {"XLA_FLAGS": f"{one_device()['XLA_FLAGS']} --xla_force_host_platform_device_count=2"}
    tasks = [
        subprocess.Popen(
            [sys.executable, "-c", JOINS],
            cwd=ROOT,
            env=os.environ | slurm | {"SLURM_PROCID": task},
            stdout=subprocess.PIPE,
            text=True,
        )
        for task in ("0", "1")
    ]
    assert [task.communicate(timeout=240)[0].split() for task in tasks] == [["0", "2", "4"], ["1", "2", "4"]]


def test_a_cluster_that_jax_cannot_find_is_one_message(monkeypatch):
    monkeypatch.setattr(accelerator, "cluster", lambda environment, has_tpu_files: {})

    def initialize():
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(InputError, match=r"coordinator_address should be defined\..*requirements-tpu\.txt"):
        accelerator.join_processes()
