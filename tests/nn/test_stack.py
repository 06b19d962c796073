from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.nn import attention_kernels, masks
from vla_jax.nn.attention import attend
from vla_jax.nn.block import plain_block
from vla_jax.nn.stack import Remat, StackConfig, Taps
from vla_jax.parameters import abstract, split

BLOCK = plain_block(width=12, num_heads=3, mlp_width=20, dropout_rate=0.3)


@pytest.fixture(scope="module")
def stack():
    return StackConfig(block=BLOCK, num_layers=3).build(nnx.Rngs(0))


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(1), (2, 5, 12))


def test_scan_equals_the_blocks_one_after_another(stack, x):
    expected = x
    for index in range(3):
        expected = stack.block(index)(expected)
    np.testing.assert_allclose(stack(x), expected, atol=1e-6)
    np.testing.assert_allclose(stack(x, span=(0, 2)), stack.run(x, Taps(range(3))).layers[1], atol=1e-6)


def test_taps_of_some_layers_are_those_of_all_in_the_order_asked_for(stack, x):
    every = stack.run(x, Taps(range(3), range(3)))
    found = stack.run(x, Taps((2, 0, 2), (1,)))
    np.testing.assert_allclose(found.layers, every.layers[np.array([2, 0, 2])], atol=1e-6)
    np.testing.assert_allclose(found.projections.key, every.projections.key[1:2], atol=1e-6)
    np.testing.assert_allclose(found.tokens, every.layers[2], atol=1e-6)
    none = stack.run(x, Taps(), span=(1, 1))
    np.testing.assert_array_equal(none.tokens, x)
    assert none.layers is none.projections is None


def test_gradients_through_taps_need_room_for_no_second_copy_of_the_parameters():
    structure, parameters = split(
        StackConfig(block=plain_block(width=64, num_heads=2, mlp_width=256), num_layers=8).build(nnx.Rngs(0))
    )

    def loss(parameters, x):
        found = structure.merge(parameters).run(x, Taps((1, 4, 6)), additions=jnp.ones((2, *x.shape)))
        return found.tokens.sum() + (found.layers**2).sum()

    compiled = jax.jit(jax.grad(loss)).lower(parameters, jnp.ones((1, 2, 64))).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < sum(array.nbytes for array in parameters.values()) / 2


def test_layers_differ(stack):
    kernel = stack.blocks.attention.query.kernel[...]
    assert not np.allclose(kernel[0], kernel[1])


def gradient_of(remat, block=BLOCK):
    structure, parameters = split(StackConfig(block=block, num_layers=3, remat=remat).build(nnx.Rngs(0)))
    return jax.grad(lambda p, x: structure.merge(p)(x, key=jax.random.key(2)).sum()), parameters


def test_remat_changes_no_gradient(x):
    gradient, parameters = gradient_of("none")
    theirs = jax.jit(gradient)(parameters, x)
    for remat in ("full", "narrow", "dots"):
        same_gradients(jax.jit(gradient_of(remat)[0])(parameters, x), theirs)


def same_gradients(ours, theirs):
    assert ours.keys() == theirs.keys()
    for path in ours:
        np.testing.assert_allclose(ours[path], theirs[path], rtol=1e-4, atol=1e-5)


def test_what_remat_keeps_is_not_computed_again(x):
    """Products with weights in a layer's backward pass: two for each of six, and those that are computed again."""

    def count(jaxpr) -> int:
        own = [e for e in jaxpr.eqns if e.primitive.name == "dot_general" and not e.params["dimension_numbers"][1][0]]
        return len(own) + sum(count(inner) for e in jaxpr.eqns for inner in jax.core.jaxprs_in_params(e.params))

    found = {}
    for remat in get_args(Remat):
        gradient, parameters = gradient_of(remat)
        found[remat] = count(jax.make_jaxpr(gradient)(parameters, x).jaxpr)
    none = found.pop("none")
    assert none == 18
    # `narrow` computes the MLP's first product again; `full` also query, key, value and out, none needs the last
    assert found == {"dots": none, "narrow": none + 1, "full": none + 5}


def test_dropout_needs_a_key_and_follows_it(stack, x):
    np.testing.assert_array_equal(stack(x), stack(x))
    np.testing.assert_array_equal(stack(x, key=jax.random.key(3)), stack(x, key=jax.random.key(3)))
    assert not np.allclose(stack(x), stack(x, key=jax.random.key(3)))
    assert not np.allclose(stack(x, key=jax.random.key(4)), stack(x, key=jax.random.key(3)))


def test_attend_equals_jax_reference_under_a_mask():
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 4, 3, 8)) for i in range(3))
    mask = masks.causal_over_valid(jnp.array([[True] * 4, [False, True, True, False]]))
    expected = jax.nn.dot_product_attention(q, k, v, mask=mask.dense()[:, None])
    np.testing.assert_allclose(attend(q, k, v, mask), expected, atol=1e-6)
    assert np.abs(np.asarray(attend(q, k, v)) - expected).max() > 1e-2


def test_causal_over_valid_leaves_no_row_empty():
    mask = np.asarray(masks.causal_over_valid(jnp.array([[False, False, True]])).dense())
    assert mask.tolist() == [[[True, False, False], [False, True, False], [False, False, True]]]


def test_structure_names_axes_without_allocating():
    structure = abstract(
        lambda: StackConfig(block=plain_block(width=4096, num_heads=32, mlp_width=20), num_layers=32).build(nnx.Rngs(0))
    )
    assert structure.shapes()["blocks/mlp/up/kernel"].shape == (32, 4096, 20)
    assert structure.logical_axes()["blocks/mlp/up/kernel"] == ("layers", "embed", "mlp")
    assert structure.logical_axes()["blocks/mlp_norm/scale"] == ("layers", "feature")


@pytest.mark.parametrize(("rows", "loops"), [(1, 3), (2, 3), (3, 2), (None, 1)])
def test_a_few_rows_at_a_time_give_what_all_do_taps_too(stack, x, rows, loops):
    """Loops: over layers, over rows where they divide, over heads."""
    x = jnp.concatenate([x, x + 1])[:4]
    kernels = attention_kernels.AttentionKernels(platform="cpu", rows=rows)

    def run(x):
        return stack.run(x, Taps(layers=(1,), projections=(0, 2)))

    traced = kernels.around(run)
    assert str(jax.make_jaxpr(traced)(x)).count(" scan[") == loops
    for found, expected in zip(jax.tree.leaves(traced(x)), jax.tree.leaves(run(x)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_rows_that_a_mask_tells_apart_stay_together(stack, x):
    mask = masks.causal_over_valid(jnp.arange(x.shape[1]) < jnp.arange(1, 1 + len(x))[:, None])
    kernels = attention_kernels.AttentionKernels(platform="cpu", rows=1)
    found = kernels.around(lambda x: stack.run(x, Taps(), mask=mask).tokens)(x)
    np.testing.assert_array_equal(found, stack.run(x, Taps(), mask=mask).tokens)


def test_what_is_kept_of_projections_is_made_inside_the_layer_and_only_that_is_held(stack, x):
    every = stack.run(x, Taps(projections=(2, 0))).projections
    kept = stack.run(x, Taps(projections=(2, 0), kept=lambda found: {"sum": found.query.sum(axis=(1, 3))})).projections
    assert list(kept) == ["sum"]
    np.testing.assert_allclose(kept["sum"], every.query.sum(axis=(2, 4)), rtol=1e-5, atol=1e-6)


def test_an_edit_reaches_the_input_of_the_layer_that_it_names_and_no_other(stack, x):
    edited = stack.run(x, Taps(range(1, 3), edit=lambda x, number: jnp.where(number == 2, 0.5 * x, x)), span=(1, 3))
    plain = stack.run(x, Taps(range(1, 3)), span=(1, 3))
    np.testing.assert_array_equal(edited.layers[0], plain.layers[0])
    np.testing.assert_allclose(edited.tokens, stack.block(2)(0.5 * plain.layers[0]), atol=1e-6)
