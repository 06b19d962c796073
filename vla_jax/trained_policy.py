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
from vla_jax.inference import readers
from vla_jax.inference.readers import Reader
from vla_jax.language.tokenizer import Tokenizer
from vla_jax.nn import attention_kernels
from vla_jax.nn.quantization import QuantizationConfig
from vla_jax.parameter_store import StoredParameters, Weights, load_parameters
from vla_jax.parameters import Structure
from vla_jax.policies.base import Policy
from vla_jax.run_directory import RunDirectory
from vla_jax.types import InputError, Observation, Parameters


@dataclasses.dataclass(frozen=True)
class TrainedPolicy:
    path: Path
    """The run, or the parameter folder."""
    config: RunConfig
    stored: StoredParameters
    """Adapters are merged."""
    tokenizer: Tokenizer
    statistics: dict[str, Any]
    """By dataset name, as dataset_statistics.json."""
    quantization: QuantizationConfig | None = None
    """Set: `stored.parameters` are those of the quantised policy."""

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

    @property
    def int8(self) -> str | None:
        """Its mode, for what evaluation writes."""
        return None if self.quantization is None else self.quantization.mode

    def untrained(self, seed: int = 0) -> "TrainedPolicy":
        """The same policy with parameters as they are drawn before training; frozen ones stay what they are."""
        structure, drawn = parameter_paths.split(self.config.build_policy(nnx.Rngs(seed)))
        frozen = self.config.frozen(structure.shapes())
        kept = {path: array for path, array in self.with_adapters().items() if path in frozen}
        parameters = drawn | kept
        if self.config.lora is not None:
            parameters = self.config.lora.merge(parameters)
        stored = dataclasses.replace(self.stored, parameters=parameters, step=0, weights="raw")
        return dataclasses.replace(self, stored=stored)

    def with_adapters(self) -> Parameters:
        """The parameters before adapters were merged; read again where there are any."""
        if self.config.lora is None:
            return self.stored.parameters
        return load_parameters(self.path, step=self.stored.step, weights=self.stored.weights).parameters

    def quantized(self, quantization: QuantizationConfig) -> "TrainedPolicy":
        """The same policy in int8, for actions alone."""
        module = self.structure.merge(self.stored.parameters)
        quantization.apply(module)
        stored = dataclasses.replace(self.stored, parameters=parameter_paths.split(module)[1])
        return dataclasses.replace(self, stored=stored, quantization=quantization)

    @functools.cached_property
    def structure(self) -> Structure:
        """Raises InputError where the stored parameters do not fit it."""
        structure = parameter_paths.abstract(self._build)
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
    def reader(self) -> Reader:
        """For a `Fleet`."""
        merge, parameters = self.structure.merge, self.stored.parameters
        return readers.reader(merge(parameters), merge, parameters, self.config.policy.data_requirements())

    def _build(self) -> Policy:
        policy = self.config.policy.build(nnx.Rngs(0))
        if self.quantization is not None:
            self.quantization.apply(policy)
        return policy

    @functools.cached_property
    def _act(self) -> Callable[[Parameters, Observation], jax.Array]:
        structure = self.structure

        def act(parameters: Parameters, observation: Observation) -> jax.Array:
            policy: Any = structure.merge(parameters)
            return policy.act(observation)

        return jax.jit(attention_kernels.of_inference().around(act))


def load_policy(path: Path | str, *, step: int | None = None, weights: Weights = "ema") -> TrainedPolicy:
    """Args: path: a run directory or a parameter folder with config.json; see `load_parameters`."""
    stored = load_parameters(path, step=step, weights=weights)
    config = configuration.load(stored.config_file)
    lora = configuration.adapters_of(stored.parameters, stored.config_file)
    if lora is not None:
        stored = dataclasses.replace(stored, parameters=lora.merge(stored.parameters))
    run = RunDirectory(Path(path))
    vocabulary = run.tokenizer if run.tokenizer.is_dir() else config.tokenizer.path
    tokenizer = dataclasses.replace(config.tokenizer, path=None if vocabulary is None else str(vocabulary))
    reads = config.policy.data_requirements()
    built = tokenizer.build(reads.text_length, reads.vocab_size, config.policy.prompt())
    return TrainedPolicy(Path(path), config, stored, built, stored.statistics())
