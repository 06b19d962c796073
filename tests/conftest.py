"""Settings that must stand before JAX starts: CPU, eight host devices, a compilation cache between runs."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / "build" / "jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
EIGHT_DEVICES = (
    "--xla_force_host_platform_device_count=8 --xla_cpu_collective_call_terminate_timeout_seconds=600"
    " --xla_cpu_enable_concurrency_optimized_scheduler=false"
)
"""Their threads may wait long for one another on a busy core: after 40 seconds XLA would end the process.

One collective after the other: otherwise Octo's step on `fsdp` 8 hung, three times out of three on two cores, it seems
because each device begins those that it can, and the waiting ones take up all threads.
"""
QUICK_COMPILATIONS = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
"""Compilations are most of the tests' time: nothing is made fast, and they take a sixth of it."""
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {EIGHT_DEVICES} {QUICK_COMPILATIONS}".strip()

import pytest
from flax import nnx

from tests.rlds_episodes import write_bridge
from vla_jax.environments import graphics

nnx.set_graph_mode(False)
nnx.set_graph_updates(False)


def pytest_addoption(parser):
    parser.addoption("--part", default="1/1", metavar="K/N", help="the K-th of N parts, by the hash of names")


def pytest_collection_modifyitems(config, items):
    number, count = map(int, config.getoption("--part").split("/"))
    assert 1 <= number <= count, "--part K/N: K of 1 to N expected"
    mine = [item for item in items if zlib.crc32(item.nodeid.encode()) % count == number - 1]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(mine)])
    items[:] = mine


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real BridgeData V2 sample; tests that need it skip loudly where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not (folder / "bridge_dataset" / "1.0.0").is_dir():
        pytest.skip(f"SKIPPED: no real BridgeData V2 sample at {folder}")
    return folder


@pytest.fixture(scope="session")
def bridge_data(tmp_path_factory) -> Path:
    """Generated data with BridgeData V2's feature tree, splits train and val: what `--data.root` names."""
    root = tmp_path_factory.mktemp("data")
    write_bridge(root, splits=("train", "val"))
    return root


@pytest.fixture(scope="session")
def tiny_run(bridge_data, tmp_path_factory) -> Path:
    """A finished run of the tiny EF-VLA twin: six steps by train.py, with a moving average."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    options = ["--config", "configs/ef_vla_bridge.py:tiny", "--data.root", bridge_data, "--run-dir", run]
    options += ["--num-steps", 6, "--checkpoint-every", 3, "--batch-size", 4]
    subprocess.run([sys.executable, "train.py", *map(str, options)], cwd=ROOT, check=True, env=one_device())
    return run


def one_device() -> dict[str, str]:
    """The environment of a command as a user starts it, but for its quick compilations: no simulated devices."""
    return os.environ | {"XLA_FLAGS": QUICK_COMPILATIONS}


@pytest.fixture(scope="session")
def gl_backend() -> str:
    """A GL backend that renders, chosen before MuJoCo is imported; tests that need pictures skip loudly without."""
    backend = graphics.choose_backend()
    if backend is None:
        pytest.skip(f"SKIPPED: no GL library renders here. As root: {graphics.install_line()}")
    return backend
