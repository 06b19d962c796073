"""A tiny twin with drawn parameters and compiled functions of them. Nothing is compiled to draw them."""

import functools

import jax
import numpy as np
from flax import nnx

from vla_jax.parameters import abstract


class Twin:
    def __init__(self, config, make_batch):
        self.config = config
        self.batch = make_batch(config.data_requirements())
        self.structure = abstract(lambda: config.build(nnx.Rngs(0)))
        self.parameters = drawn(self.structure.shapes())

    def policy(self, parameters):
        return self.structure.merge(parameters)

    @functools.cached_property
    def act(self):
        return jax.jit(lambda parameters, observation: self.policy(parameters).act(observation))

    @functools.cached_property
    def loss(self):
        return jax.jit(lambda parameters, batch: self.policy(parameters).loss(batch, key=None).total)


def drawn(shapes, seed: int = 0) -> dict[str, np.ndarray]:
    """No zeros or ones anywhere: those hide what is not read."""
    generator = np.random.default_rng(seed)
    parameters = {}
    for path, shape in shapes.items():
        name = path.rpartition("/")[2]
        scale = shape.shape[-2] ** -0.5 if name == "kernel" else 0.2
        offset = 1.0 if name == "scale" else 0.0
        parameters[path] = (offset + scale * generator.normal(size=shape.shape)).astype(np.float32)
    return parameters
