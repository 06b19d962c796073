"""With bfloat16 parameters every released model computes in bfloat16: nothing on the way widens it."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from tests.backbones import BACKBONES
from vla_jax.nn.lora import LoraConfig
from vla_jax.nn.quantization import QuantizationConfig
from vla_jax.parameters import abstract


def wide_outputs(build, run, inputs) -> list[str]:
    """Floating outputs that are not bfloat16 though all floating parameters are."""
    structure = abstract(build)

    def narrow(shape):
        return jax.ShapeDtypeStruct(shape.shape, _bfloat16(shape.dtype))

    parameters = {path: narrow(shape) for path, shape in structure.shapes().items()}
    found = jax.eval_shape(lambda parameters, given: run(structure.merge(parameters), given), parameters, inputs)
    leaves = jax.tree_util.tree_leaves_with_path(found)
    assert leaves
    return [
        f"{jax.tree_util.keystr(path)} {leaf.dtype}" for path, leaf in leaves if leaf.dtype != _bfloat16(leaf.dtype)
    ]


def _bfloat16(dtype):
    return jnp.bfloat16 if jnp.issubdtype(dtype, jnp.floating) else dtype


@pytest.mark.parametrize("name", BACKBONES)
def test_what_comes_out_is_as_narrow_as_the_parameters(name):
    config, inputs, run = BACKBONES[name]
    assert not wide_outputs(lambda: config.build(nnx.Rngs(0)), run, inputs)


@pytest.mark.parametrize("change", ["lora", "weight_only", "dynamic"])
def test_adapted_and_quantised_layers_widen_nothing(change):
    config, inputs, run = BACKBONES["llama"]

    def build():
        rngs = nnx.Rngs(0)
        model = config.build(rngs)
        if change == "lora":
            LoraConfig(targets=(".*blocks/.*",)).apply(model, rngs)
        else:
            QuantizationConfig(mode=change).apply(model)
        return model

    assert not wide_outputs(build, run, inputs)


def test_one_float32_table_shows():
    """So that the tests above can fail."""
    config, inputs, run = BACKBONES["dinov2"]

    def widened(model, given):
        model.positions = nnx.Param(model.positions[...].astype(jnp.float32))
        return run(model, given)

    assert wide_outputs(lambda: config.build(nnx.Rngs(0)), widened, inputs)
