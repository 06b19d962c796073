"""Int8 layers: how far off, how small, and that scales lie along the output channels.

Axes: b batch, n tokens, i in, o out.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix
from flax import nnx

from tests.nn.test_lora import HIDDEN, LAYERS, WIDTH, Model
from vla_jax import parameters as parameter_paths
from vla_jax.nn.linear import linear
from vla_jax.nn.quantization import Int8Linear, QuantizationConfig
from vla_jax.types import InputError

IN, OUT = 96, 80
MODES = ("weight_only", "dynamic")


@pytest.fixture(scope="module")
def layer():
    """Output channels of very different size, as trained weights have them."""
    layer = linear(IN, OUT, ("embed", "mlp"), rngs=nnx.Rngs(0))
    layer.kernel[...] = layer.kernel[...] * jnp.logspace(-2, 0, OUT)
    layer.bias[...] = 0.01 * jax.random.normal(jax.random.key(2), (OUT,))
    return layer


@pytest.fixture(scope="module")
def x():
    """Tokens of very different size."""
    return jax.random.normal(jax.random.key(1), (2, 16, IN)) * jnp.logspace(-1, 1, 16)[:, None]


def channel_error(found, expected):
    """The mean over output channels of each one's relative error."""
    error = np.linalg.norm(found - expected, axis=(0, 1)) / np.linalg.norm(expected, axis=(0, 1))
    return float(error.mean())


@pytest.mark.parametrize(("mode", "bar"), [("weight_only", 0.008), ("dynamic", 0.012)])
def test_outputs_are_close_in_every_channel_and_a_scale_a_tensor_is_not(layer, x, mode, bar):
    expected = layer(x)
    assert 0 < channel_error(Int8Linear(layer, mode)(x), expected) < bar
    whole = qwix.quantize(layer.kernel[...], jnp.int8, channelwise_axes=())
    twin = Int8Linear(layer, mode)
    twin.kernel_int8[...] = whole.qvalue
    twin.kernel_scale[...] = jnp.broadcast_to(whole.scale, twin.kernel_scale[...].shape)
    assert channel_error(twin(x), expected) > 5 * bar


def test_a_scale_along_the_inputs_fails(layer, x):
    twin = Int8Linear(layer, "weight_only")
    twin.kernel_scale[...] = jnp.resize(jnp.max(jnp.abs(layer.kernel[...]), axis=1) / 127, (1, OUT))
    assert channel_error(twin(x), layer(x)) > 0.3


def test_activations_have_a_scale_a_token(layer, x):
    """Small tokens beside large ones keep their precision; one scale for all would lose them."""
    found, expected = Int8Linear(layer, "dynamic")(x)[:, 0], layer(x)[:, 0]
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.02
    together = qwix.quantize(x, jnp.int8, channelwise_axes=())
    lost = layer(qwix.dequantize(together))[:, 0]
    assert np.linalg.norm(lost - expected) / np.linalg.norm(expected) > 0.1


def test_the_dynamic_product_runs_in_int8(layer, x):
    def products(mode):
        jaxpr = str(jax.make_jaxpr(Int8Linear(layer, mode))(x))
        return [line for line in jaxpr.splitlines() if "dot_general" in line and "i32" in line]

    assert products("dynamic")
    assert not products("weight_only")


@pytest.mark.parametrize("mode", MODES)
def test_bfloat16_activations_stay_bfloat16(layer, x, mode):
    layer = jax.tree.map(lambda array: array.astype(jnp.bfloat16), layer)
    found = Int8Linear(layer, mode)(x.astype(jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    assert channel_error(found.astype(jnp.float32), layer(x.astype(jnp.bfloat16)).astype(jnp.float32)) < 0.02


@pytest.mark.parametrize("mode", MODES)
def test_a_stack_is_quantised_layer_by_layer_and_runs_under_scan(mode):
    config, plain = QuantizationConfig(mode=mode), Model(nnx.Rngs(0))

    def build():
        model = Model(nnx.Rngs(0))
        config.apply(model)
        return model

    structure, parameters = parameter_paths.split(build())
    shapes = parameter_paths.abstract(build).shapes()
    assert {p: (s.shape, s.dtype) for p, s in shapes.items()} == {p: (a.shape, a.dtype) for p, a in parameters.items()}
    assert parameters["blocks/up/kernel_scale"].shape == (LAYERS, 1, HIDDEN)
    assert structure.logical_axes()["blocks/up/kernel_int8"] == ("layers", "embed", "mlp")
    assert structure.logical_axes()["blocks/up/kernel_scale"] == ("layers", None, "mlp")
    x = jax.random.normal(jax.random.key(1), (2, 5, WIDTH))
    expected, found = plain(x), jax.jit(lambda parameters: structure.merge(parameters)(x))(parameters)
    assert 0 < float(jnp.abs(found - expected).max() / jnp.abs(expected).max()) < 0.02
    block = jax.tree.map(lambda stacked: stacked[1], build().blocks)
    alone = Int8Linear(jax.tree.map(lambda stacked: stacked[1], plain.blocks).up, mode)
    np.testing.assert_array_equal(block.up.kernel_int8[...], alone.kernel_int8[...])


def test_layers_outside_blocks_are_left_alone_and_bytes_are_a_quarter():
    _, before = parameter_paths.split(Model(nnx.Rngs(0)))
    model = Model(nnx.Rngs(0))
    QuantizationConfig(mode="weight_only").apply(model)
    _, after = parameter_paths.split(model)
    assert {path for path in before if not path.startswith("blocks")} <= after.keys()
    kernels = sum(a.nbytes for p, a in before.items() if p.startswith("blocks") and p.endswith("kernel"))
    held = {p: a for p, a in after.items() if p.startswith("blocks") and "kernel" in p}
    assert not any(path.endswith("kernel") for path in held)
    assert sum(a.nbytes for p, a in held.items() if p.endswith("int8")) * 4 == kernels
    assert sum(a.nbytes for p, a in held.items() if p.endswith("scale")) == 4 * LAYERS * (HIDDEN + WIDTH)


def test_targets_that_match_nothing_are_refused():
    with pytest.raises(InputError, match=r"int8 targets: no linear layer matches \['llm/.*'\]"):
        QuantizationConfig(mode="dynamic", targets=("llm/.*",)).apply(Model(nnx.Rngs(0)))
