"""A policy as it was trained: its configuration, parameters, vocabulary and statistics, ready to be asked for actions.

Evaluation and serving start here. Axes: b batch, h horizon, a action.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from data_pipelines.normalization import Normalizer, normalizer
from vla_jax import config as configuration
from vla_jax import parameters as parameter_paths
from vla_jax.config import RunConfig
from vla_jax.language.tokenizer import Tokenizer
from vla_jax.parameter_store import StoredParameters, Weights, load_parameters
from vla_jax.parameters import Structure
from vla_jax.run_directory import RunDirectory
from vla_jax.types import InputError, Observation, Parameters


@dataclasses.dataclass(frozen=True)
class TrainedPolicy:
    path: Path
    """The run, or the parameter folder."""
    config: RunConfig
    stored: StoredParameters
    tokenizer: Tokenizer
    statistics: dict[str, Any]
    """By dataset name, as dataset_statistics.json."""

    def act(self, observation: Observation) -> Float[np.ndarray, "b h a"]:
        """Normalised chunks, float32, for an observation with numpy leaves."""
        return np.asarray(self._act(self.stored.parameters, observation))

    def act_unnormalized(self, observation: Observation, dataset: str) -> Float[np.ndarray, "b h a"]:
        """In the action space's units, with the statistics of `dataset`."""
        return self.normalizer("action", dataset).inverse(self.act(observation))

    def normalizer(self, kind: Literal["action", "proprio"], dataset: str) -> Normalizer:
        where = f"{self.stored.folder}/dataset_statistics.json"
        if dataset not in self.statistics:
            raise InputError(f"{where}: no dataset {dataset!r}; it has {sorted(self.statistics)}")
        space, statistics = self.config.action_space, self.statistics[dataset][kind]
        dimensions = space.dimensions if kind == "action" else space.proprio
        return normalizer(space.normalization, statistics, dimensions, f"{where}: {dataset}/{kind}")

    def untrained(self, seed: int = 0) -> "TrainedPolicy":
        """The same policy with parameters as they are drawn before training; frozen ones stay what they are."""
        structure, drawn = parameter_paths.split(self.config.policy.build(nnx.Rngs(seed)))
        frozen = parameter_paths.matching(structure.shapes(), self.config.policy.frozen_paths())
        kept = {path: array for path, array in self.stored.parameters.items() if path in frozen}
        stored = dataclasses.replace(self.stored, parameters=drawn | kept, step=0, weights="raw")
        return dataclasses.replace(self, stored=stored)

    @functools.cached_property
    def structure(self) -> Structure:
        """Raises InputError where the stored parameters do not fit it."""
        structure = parameter_paths.abstract(lambda: self.config.policy.build(nnx.Rngs(0)))
        found, shapes = self.stored.parameters, structure.shapes()
        for cause, paths in (
            ("are missing", shapes.keys() - found.keys()),
            ("have no place in its config.json", found.keys() - shapes.keys()),
            (
                "have another shape than by its config.json",
                {path for path in shapes.keys() & found.keys() if found[path].shape != shapes[path].shape},
            ),
        ):
            if paths:
                raise InputError(
                    f"{self.stored.folder}: {len(paths)} parameters {cause}: {sorted(paths)[:5]}; "
                    "the folder was put together from two runs"
                )
        return structure

    @functools.cached_property
    def _act(self) -> Callable[[Parameters, Observation], jax.Array]:
        structure = self.structure

        def act(parameters: Parameters, observation: Observation) -> jax.Array:
            policy: Any = structure.merge(parameters)
            return policy.act(observation)

        return jax.jit(act)


def load_policy(path: Path | str, *, step: int | None = None, weights: Weights = "ema") -> TrainedPolicy:
    """Args: path: a run directory or a parameter folder with config.json; see `load_parameters`."""
    stored = load_parameters(path, step=step, weights=weights)
    config = configuration.load(stored.config_file)
    run = RunDirectory(Path(path))
    vocabulary = run.tokenizer if run.tokenizer.is_dir() else config.tokenizer.path
    tokenizer = dataclasses.replace(config.tokenizer, path=None if vocabulary is None else str(vocabulary))
    reads = config.policy.data_requirements()
    built = tokenizer.build(reads.text_length, reads.vocab_size)
    return TrainedPolicy(Path(path), config, stored, built, stored.statistics())
