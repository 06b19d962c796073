"""An exported tiny EF-VLA: random parameters everywhere, two datasets, two cameras."""

import dataclasses
import os
from pathlib import Path

os.environ.setdefault("HF_MODULES_CACHE", str(Path(__file__).resolve().parents[2] / "build" / "hf_modules"))

import numpy as np
import pytest
from flax import nnx

from data_pipelines.action_spaces import relative_pose
from data_pipelines.config import DataConfig, MixtureEntry
from vla_jax import config as configuration
from vla_jax.__main__ import main
from vla_jax.config import RunConfig
from vla_jax.parameter_store import save_parameters
from vla_jax.parameters import abstract
from vla_jax.policies import ef_vla

DATASETS = ("bridge_dataset", "fractal20220817_data")


def run_config(preset=ef_vla.ef_vla, normalization: str = "gaussian", **changes) -> RunConfig:
    policy = ef_vla.tiny(preset(relative_pose.action_space(5, normalization)))
    return RunConfig(
        name="tiny",
        policy=dataclasses.replace(policy, **changes),
        data=DataConfig(root="data", mixture=tuple(MixtureEntry(name=name) for name in DATASETS)),
    )


def random_parameters(config: RunConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """No zeros or ones anywhere: those hide swapped tensors."""
    generator = np.random.default_rng(seed)
    shapes = abstract(lambda: config.policy.build(nnx.Rngs(0))).shapes()
    parameters = {}
    for path, shape in shapes.items():
        name = path.rpartition("/")[2]
        scale = 1 / np.sqrt(np.prod(shape.shape[-2:-1])) if name == "kernel" and shape.shape[-2:-1] else 0.2
        offset = {"scale": 1.0, "log_scale": 2.5, "tau": 1.0}.get(name, 0.0)
        parameters[path] = (offset + scale * generator.normal(size=shape.shape)).astype(np.float32)
    return parameters


def random_statistics(datasets=DATASETS) -> dict[str, dict]:
    return {name: _statistics(np.random.default_rng(seed)) for seed, name in enumerate(datasets)}


def write_parameters(folder: Path, config: RunConfig, *, datasets=DATASETS, **changed_parameters) -> Path:
    """A parameter folder, as `import` and training leave them. A changed parameter that is None is left out."""
    documents = {
        "config.json": configuration.to_json(config),
        "dataset_statistics.json": random_statistics(datasets),
    }
    parameters = random_parameters(config) | changed_parameters
    save_parameters(folder, {p: array for p, array in parameters.items() if array is not None}, documents=documents)
    return folder


def _statistics(generator: np.random.Generator) -> dict:
    tree = {"num_transitions": 100, "num_trajectories": 4, "key": "0" * 64}
    for kind in ("action", "proprio"):
        mean, std = generator.normal(size=10), generator.uniform(0.1, 1, 10)
        numbers = {"mean": mean, "std": std, "min": mean - 3 * std, "max": mean + 3 * std}
        numbers |= {"q01": mean - 2 * std, "q99": mean + 2 * std}
        for values in numbers.values():  # a dimension that never moves
            values[4] = 0.0 if values is std else 0.7
        tree[kind] = {name: values.tolist() for name, values in numbers.items()} | {"mask": [True] * 9 + [False]}
    return tree


@pytest.fixture(scope="session")
def parameter_folder(tmp_path_factory) -> Path:
    return write_parameters(tmp_path_factory.mktemp("parameters") / "ef_vla", run_config())


@pytest.fixture(scope="session")
def exported(parameter_folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "ef_vla"
    assert main(["export", "--checkpoint", str(parameter_folder), "--to", "hf", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def observation() -> dict:
    """Arguments of `predict_action`: pictures that differ from place to place, and an ordinary pose."""
    generator = np.random.default_rng(7)
    slope = np.linspace(0.1, 1, 60)[:, None]
    pictures = {
        slot: (generator.integers(0, 256, (40, 60, 3)) * slope).astype(np.uint8) for slot in ("primary", "wrist")
    }
    proprio = np.array([0.3, 0.0, 0.2, 1, 0.1, 0, -0.1, 1, 0, 0.5], np.float32)
    return {
        "images": pictures,
        "proprio": proprio,
        "instruction": "put the spoon in the pot",
        "unnorm_key": DATASETS[0],
    }
