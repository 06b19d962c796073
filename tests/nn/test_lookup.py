"""A table's gradient: what its rows were read for, summed."""

import jax
import jax.numpy as jnp
import numpy as np

from vla_jax.nn.lookup import lookup


def _gradient(rows, table, ids, weights):
    return jax.grad(lambda table: (rows(table, ids) * weights).astype(jnp.float32).sum())(table)


def _take(table, ids):
    return jnp.take(table, ids, axis=0, mode="fill")


def test_rows_and_gradient_are_those_of_take_in_float32():
    table, weights = jax.random.normal(jax.random.key(0), (7, 3)), jax.random.normal(jax.random.key(1), (2, 4, 3))
    ids = jnp.array([[0, 6, 2, 2], [-1, 3, 7, 0]])
    np.testing.assert_array_equal(lookup(table, ids), _take(table, ids))
    assert jnp.isnan(lookup(table, ids)[1, 2]).all()
    expected = _gradient(_take, table, ids, weights)
    np.testing.assert_allclose(_gradient(lookup, table, ids, weights), expected, rtol=1e-6, atol=1e-7)


def test_an_id_of_every_sample_is_not_lost_in_bfloat16():
    table, ids, ones = jnp.zeros((4, 8), jnp.bfloat16), jnp.ones(2048, int), jnp.ones((2048, 8), jnp.bfloat16)
    found = _gradient(lookup, table, ids, ones)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found[1], 2048)
    assert (_gradient(_take, table, ids, ones)[1] < 1024).all(), "what a sum in bfloat16 loses"
