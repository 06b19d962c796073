"""A table's gradient: what its rows were read for, summed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


@pytest.mark.parametrize("rows_at_once", [1, 4, 6, 10, 1000])
def test_the_gradient_is_the_same_however_many_rows_are_added_at_once(rows_at_once, monkeypatch):
    """Two samples of seven places: the last part is shorter, or there is but one."""
    monkeypatch.setattr("vla_jax.nn.lookup.ROWS_AT_ONCE", rows_at_once)
    table, weights = jnp.zeros((5, 3)), jax.random.normal(jax.random.key(1), (2, 7, 3))
    ids = jax.random.randint(jax.random.key(2), (2, 7), -5, 7)
    expected = _gradient(_take, table, ids, weights)
    np.testing.assert_allclose(_gradient(lookup, table, ids, weights), expected, rtol=1e-6, atol=1e-6)
    assert expected.any(axis=1).all(), "every row is read"


def test_an_id_of_every_sample_is_not_lost_in_bfloat16():
    table, ids, ones = jnp.zeros((4, 8), jnp.bfloat16), jnp.ones((2048, 1), int), jnp.ones((2048, 1, 8), jnp.bfloat16)
    found = _gradient(lookup, table, ids, ones)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found[1], 2048)
    assert (_gradient(_take, table, ids, ones)[1] < 1024).all(), "what a sum in bfloat16 loses"
