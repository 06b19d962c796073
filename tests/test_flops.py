"""The FLOP counter against counts by hand and XLA's own; a counter that counts a scan's body once fails."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from vla_jax.flops import Flops, count_flops

B, D, LAYERS = 3, 8, 5
PRODUCT = 2 * B * D * D
"""Of [B, D] with [D, D]."""
X = jax.ShapeDtypeStruct((B, D), jnp.float32)
W = jax.ShapeDtypeStruct((D, D), jnp.float32)
STACK = jax.ShapeDtypeStruct((LAYERS, D, D), jnp.float32)


def stack(weights, x, *, checkpoint=False):
    def body(x, weight):
        return jnp.tanh(x @ weight), None

    return jax.lax.scan(jax.checkpoint(body, prevent_cse=False) if checkpoint else body, x, weights)[0]


def total(function, *arguments) -> int:
    return count_flops(function, *arguments).total


@pytest.mark.parametrize(
    ("equation", "shapes", "expected"),
    [
        ("ij,jk->ik", ((3, 5), (5, 7)), 2 * 3 * 5 * 7),
        ("bqhf,bkhf->bhqk", ((2, 3, 4, 5), (2, 6, 4, 5)), 2 * 2 * 4 * 3 * 6 * 5),
        ("i,j->ij", ((3,), (5,)), 2 * 3 * 5),
    ],
)
def test_a_product_costs_two_a_multiply_add(equation, shapes, expected):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    assert total(functools.partial(jnp.einsum, equation), *arguments) == expected


@pytest.mark.parametrize(
    ("options", "kernel", "expected"),
    [
        ({"window_strides": (2, 2), "padding": "VALID"}, (2, 2, 4, 6), 2 * (4 * 5 * 6) * (2 * 2 * 4)),
        ({"window_strides": (1, 1), "padding": "SAME"}, (3, 3, 4, 6), 2 * (8 * 10 * 6) * (3 * 3 * 4)),
        (
            {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 2},
            (3, 3, 2, 6),
            2 * (8 * 10 * 6) * (3 * 3 * 2),
        ),
        # Transposed, stride 2: every pixel meets every weight once.
        (
            {"window_strides": (1, 1), "padding": ((1, 1), (1, 1)), "lhs_dilation": (2, 2)},
            (2, 2, 4, 6),
            2 * (8 * 10 * 4) * (2 * 2 * 6),
        ),
    ],
)
def test_a_convolution_costs_its_window_at_every_pixel(options, kernel, expected):
    convolve = functools.partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 8, 10, 4), kernel)]
    assert total(convolve, *arguments) == expected


def test_the_body_of_a_scan_counts_as_often_as_it_runs():
    assert total(stack, STACK, X) == LAYERS * PRODUCT

    def twice(weights, x):
        return jax.lax.fori_loop(0, 7, lambda _, x: stack(weights, x), x)

    assert total(twice, STACK, X) == 7 * LAYERS * PRODUCT


def test_a_counter_that_counts_the_body_once_is_caught(monkeypatch):
    monkeypatch.setattr(Flops, "times", lambda self, count: self)
    assert total(stack, STACK, X) == PRODUCT


def test_what_checkpoint_does_again_is_counted_and_told_apart():
    def gradient(checkpoint):
        loss = lambda weights, x: stack(weights, x, checkpoint=checkpoint).sum()  # noqa: E731
        return count_flops(jax.grad(loss, argnums=(0, 1)), STACK, X)

    without, with_checkpoint = gradient(False), gradient(True)
    assert (without.total, without.recomputed) == (3 * LAYERS * PRODUCT, 0)
    assert (with_checkpoint.total, with_checkpoint.recomputed) == (4 * LAYERS * PRODUCT, LAYERS * PRODUCT)


def test_a_scan_within_what_is_done_again_is_done_again_too():
    def loss(weights, x):
        return jnp.sin(jax.checkpoint(stack)(weights, x)).sum()

    flops = count_flops(jax.grad(loss), STACK, X)
    assert flops.recomputed == LAYERS * PRODUCT


def test_the_forward_pass_of_frozen_parts_is_fixed():
    def loss(trained, frozen, x):
        return stack(trained, stack(frozen, x)).sum()

    flops = count_flops(jax.grad(loss), STACK, STACK, X)
    assert flops.fixed == LAYERS * PRODUCT
    # The first trained layer asks for no gradient of its input, but the scan's body computes it alike.
    assert flops.total == (1 + 3) * LAYERS * PRODUCT


def test_what_a_later_round_of_a_loop_reaches_is_not_fixed():
    def shifted(followed, weight, x):
        def body(carry, _):
            first, second = carry
            return (second, first @ weight), None

        return jax.lax.scan(body, (x, followed), None, length=4)[0]

    assert count_flops(shifted, X, W, X).fixed == 0
    assert count_flops(shifted, X, W, X, follow=1).fixed == 0
    unused = lambda followed, weight, x: (followed, stack(weight[None], x))  # noqa: E731
    assert count_flops(unused, X, W, X).fixed == PRODUCT


def test_the_dearest_branch_counts():
    def branches(which, w, x):
        return jax.lax.switch(which, [lambda: x, lambda: x @ w @ w, lambda: x @ w])

    assert total(branches, jax.ShapeDtypeStruct((), jnp.int32), W, X) == 2 * PRODUCT


def test_work_whose_result_is_not_used_is_left_out():
    def wasteful(w, x):
        x @ w @ w
        return jax.jit(lambda x: (x @ w, x @ w @ w))(x)[0]

    assert total(wasteful, W, X) == PRODUCT


@jax.custom_vjp
def own_gradient(w, x):
    return x @ w


own_gradient.defvjp(
    lambda w, x: (own_gradient(w, x), (w, x)), lambda kept, g: (kept[1].T @ g, jax.jit(jnp.matmul)(g, kept[0].T))
)


@jax.custom_jvp
def own_tangent(x):
    return x @ x.T


own_tangent.defjvp(lambda primals, tangents: (own_tangent(*primals), own_tangent(*tangents)))


def test_calls_are_looked_into():
    assert total(jax.jit(jnp.matmul), X, W) == PRODUCT
    assert total(own_gradient, W, X) == PRODUCT
    assert total(jax.grad(lambda w, x: own_gradient(w, x).sum(), argnums=(0, 1)), W, X) == 2 * PRODUCT
    assert total(own_tangent, X) == 2 * B * B * D


def test_every_device_of_a_shard_map_counts():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")
    rows = jax.ShapeDtypeStruct((4 * B, D), jnp.float32)
    sharded = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(spec, PartitionSpec()), out_specs=spec)
    assert total(sharded, rows, W) == 4 * PRODUCT


def test_a_loop_of_unknown_length_is_named_where_it_holds_products():
    def until_small(w, x):
        return jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x @ w, x)

    flops = count_flops(until_small, W, X)
    assert flops.total == PRODUCT
    assert len(flops.uncounted) == 1
    assert "loop while at" in flops.uncounted[0]
    assert "test_flops.py" in flops.uncounted[0]
    halved = count_flops(lambda x: jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x / 2, x), X)
    assert halved == Flops()


def test_a_kernel_is_named():
    from jax.experimental import pallas

    def kernel(x_ref, out_ref):
        out_ref[...] = x_ref[...] @ x_ref[...].T

    call = pallas.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct((B, B), jnp.float32), interpret=True)
    flops = count_flops(call, X)
    assert flops.total == 0
    assert "kernel pallas_call at" in flops.uncounted[0]


def test_an_unrolled_gradient_costs_what_xla_says():
    width, hidden, batch = 64, 256, 32

    def loss(weights, x):
        for up, down in weights:
            x = x + jax.nn.relu(x @ up) @ down
        return (x**2).sum()

    weights = [(np.zeros((width, hidden), np.float32), np.zeros((hidden, width), np.float32))] * 2
    x = np.zeros((batch, width), np.float32)
    analysis = jax.jit(jax.grad(loss)).lower(weights, x).compile().cost_analysis()
    assert total(jax.grad(loss), weights, x) == pytest.approx(analysis["flops"], rel=0.03)
