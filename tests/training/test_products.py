"""Products with weights on a mesh: the same numbers, rows where they were, gradients reduced to where they lie."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from vla_jax.nn.linear import linear
from vla_jax.parameters import split
from vla_jax.sharding import MeshConfig, batch_sharding, parameter_shardings
from vla_jax.training.products import with_products

ROWS, IN, OUT = 8, 16, 24


class Layer(nnx.Module):
    def __init__(self, axes, widths=(IN, OUT)):
        self.linear = linear(*widths, axes, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.linear(x)


def gradient_on(mesh, axes, widths=(IN, OUT), *, with_own_products=True, reduction="compute", dtype=jnp.float32):
    """The compiled gradient of a sum of squares by the parameters, its arguments, and where parameters lie."""
    layer = Layer(axes, widths)
    structure, parameters = split(with_products(layer, mesh, reduction) if with_own_products else layer)
    places = parameter_shardings(mesh, structure.shapes(), structure.logical_axes())

    def loss(parameters, x):
        cast = {path: array.astype(dtype) for path, array in parameters.items()}
        return jnp.sum(jnp.square(structure.merge(cast)(x.astype(dtype)).astype(jnp.float32)))

    x = np.random.default_rng(0).normal(size=(ROWS, 5, widths[0])).astype(np.float32)
    gradient = jax.jit(jax.grad(loss), in_shardings=(places, batch_sharding(mesh)), out_shardings=places)
    return gradient, (parameters, x), places


MESHES = {
    "fsdp": MeshConfig(data=1, fsdp=8),
    "hsdp": MeshConfig(data=2, fsdp=4),
    "tensor": MeshConfig(data=1, fsdp=4, tensor=2),
    "data": MeshConfig(data=8),
}
AXES = {"by_input": ("embed", "mlp"), "by_output": ("mlp", "embed"), "nowhere": (None, None)}
ODD = {"in_two": (6, 12), "in_part": (5, 6)}
"""Widths that eight devices do not divide: two of them divide one, four the other; or two alone divide one."""


@pytest.mark.parametrize(
    ("mesh", "axes", "widths"),
    [(mesh, axes, (IN, OUT)) for mesh in MESHES for axes in AXES] + [("fsdp", "by_input", ODD[name]) for name in ODD],
)
def test_gradients_are_those_of_one_device(mesh, axes, widths):
    one = MeshConfig().build(jax.devices()[:1])
    expected_of, arguments, _ = gradient_on(one, AXES[axes], widths)
    gradient, _, places = gradient_on(MESHES[mesh].build(), AXES[axes], widths)
    found, expected = gradient(*arguments), expected_of(*arguments)
    for path, array in expected.items():
        np.testing.assert_allclose(found[path], array, rtol=1e-5, atol=1e-5 * np.abs(array).max())
        assert found[path].sharding.is_equivalent_to(places[path], array.ndim)


def collectives(gradient, arguments) -> list[tuple[str, int]]:
    """Kind and elements."""
    text = gradient.lower(*arguments).compile().as_text()
    shapes = re.findall(r"= \w+\[([\d,]*)\]\S* (all-reduce|all-gather|reduce-scatter|all-to-all)\(", text)
    return [(kind, int(np.prod([int(size) for size in shape.split(",") if size]))) for shape, kind in shapes]


@pytest.mark.parametrize("axes", ["by_input", "by_output"])
def test_a_gradient_is_reduced_to_where_it_lies_in_two_phases(axes):
    gradient, arguments, _ = gradient_on(MESHES["fsdp"].build(), AXES[axes])
    found = collectives(gradient, arguments)
    assert [size for kind, size in found if kind == "reduce-scatter"] == [IN * OUT // 2, IN * OUT // 8]
    assert not [size for kind, size in found if kind == "all-reduce" and size >= IN * OUT // 2]


def test_left_alone_the_compiler_reduces_it_whole():
    gradient, arguments, _ = gradient_on(MESHES["fsdp"].build(), AXES["by_input"], with_own_products=False)
    assert not [size for kind, size in collectives(gradient, arguments) if kind == "reduce-scatter"]


def reduced(jaxpr):
    """The dtypes of what is scattered."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "reduce_scatter":
            yield equation.invars[0].aval.dtype
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from reduced(inner)


@pytest.mark.parametrize(("reduction", "dtype"), [("compute", jnp.bfloat16), ("float32", jnp.float32)])
def test_the_dtype_of_the_reduction_is_as_configured(reduction, dtype):
    gradient, arguments, _ = gradient_on(
        MESHES["fsdp"].build(), AXES["by_input"], reduction=reduction, dtype=jnp.bfloat16
    )
    assert set(reduced(jax.make_jaxpr(gradient)(*arguments).jaxpr)) == {jnp.dtype(dtype)}


def test_rows_that_the_devices_do_not_divide_are_left_to_the_compiler():
    mesh = MESHES["fsdp"].build()
    x = np.ones((3, IN), np.float32)
    product = with_products(Layer(AXES["by_input"]), mesh, "compute")
    np.testing.assert_allclose(jax.jit(product)(x), Layer(AXES["by_input"])(x), rtol=1e-6)


def test_one_device_needs_no_products():
    layer = Layer(AXES["by_input"])
    before = layer.linear.dot_general
    assert with_products(layer, MeshConfig().build(jax.devices()[:1]), "compute").linear.dot_general is before


def test_rows_stay_where_they_are():
    """The wrong twin follows the kernel: whole over the batch, shared out by width."""
    mesh = MESHES["fsdp"].build()
    place = NamedSharding(mesh, PartitionSpec("fsdp", None))

    def output_sharding(product):
        layer = Layer(AXES["by_output"])
        layer = with_products(layer, mesh, "compute") if product else layer
        structure, parameters = split(layer)
        run = jax.jit(
            lambda p, x: structure.merge(p)(x), in_shardings=({"linear/kernel": None, "linear/bias": None}, None)
        )
        kernel = jax.device_put(parameters["linear/kernel"], NamedSharding(mesh, PartitionSpec(None, "fsdp")))
        return run({"linear/kernel": kernel, "linear/bias": parameters["linear/bias"]}, np.ones((ROWS, IN), np.float32))

    assert output_sharding(product=True).sharding.is_equivalent_to(place, 2)
    assert not output_sharding(product=False).sharding.is_equivalent_to(place, 2)
