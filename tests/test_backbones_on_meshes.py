"""Released models on a mesh: every matrix is shared out, and eight devices compute what one does."""

import jax
import numpy as np
import pytest
from flax import nnx

from tests.backbones import BACKBONES
from vla_jax.parameters import abstract
from vla_jax.sharding import MeshConfig, batch_sharding, parameter_shardings, rule, shared_over

WHOLE_EVERYWHERE = ("row_positions", "column_positions")
"""SAM's relative positions: rows by the width of one head."""

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Compiles in a fraction of the time; how things are shared out does not depend on it."""


@pytest.fixture(scope="module")
def mesh():
    return MeshConfig(data=1, fsdp=4, tensor=2).build()


def is_shared_out(axes) -> bool:
    return any(rule(axis) for axis in axes)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_matrix_has_an_axis_that_is_shared_out(name):
    axes = abstract(lambda: BACKBONES[name].config.build(nnx.Rngs(0))).logical_axes()
    matrices = {path: names for path, names in axes.items() if len(names) - names.count("layers") >= 2}
    assert matrices
    assert not {path for path, names in matrices.items() if not is_shared_out(names)} - {
        path for path in matrices if path.endswith(WHOLE_EVERYWHERE)
    }


@pytest.mark.parametrize("name", ["dinov2_giant", "sam", "qwen3", "qwen3_vl"])
def test_eight_devices_compute_what_one_does(name, mesh):
    config, inputs, run = BACKBONES[name]
    structure, generator = abstract(lambda: config.build(nnx.Rngs(0))), np.random.default_rng(0)
    parameters = {
        path: generator.normal(size=shape.shape, scale=0.3).astype(np.float32)
        for path, shape in structure.shapes().items()
    }
    shardings = parameter_shardings(mesh, structure.shapes(), structure.logical_axes())
    assert set().union(*map(shared_over, shardings.values())) == {"fsdp", "tensor"}

    def outputs(parameters, given):
        return run(structure.merge(parameters), given)

    expected = jax.jit(outputs, compiler_options=QUICK)(parameters, inputs)
    on_mesh = jax.jit(outputs, in_shardings=(shardings, batch_sharding(mesh)), compiler_options=QUICK)
    found = on_mesh(parameters, inputs)

    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert len(ours.sharding.device_set) == mesh.size
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
