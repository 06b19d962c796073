"""Settings that must stand before JAX starts: CPU, eight host devices, a compilation cache between runs."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / "build" / "jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()

import pytest
from flax import nnx

nnx.set_graph_mode(False)
nnx.set_graph_updates(False)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real BridgeData V2 sample; tests that need it skip loudly where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not (folder / "bridge_dataset" / "1.0.0").is_dir():
        pytest.skip(f"SKIPPED: no real BridgeData V2 sample at {folder}")
    return folder
