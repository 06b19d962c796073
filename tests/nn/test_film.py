"""FiLM: nothing at the start, and what it does between attention and perceptron."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.nn.block import plain_block
from vla_jax.nn.film import Film, modulated, stacked_films
from vla_jax.nn.stack import StackConfig

X = jax.random.normal(jax.random.key(0), (2, 5, 12))
CONDITION = jax.random.normal(jax.random.key(1), (2, 7))


@pytest.fixture(scope="module")
def stack():
    return StackConfig(block=plain_block(width=12, num_heads=2, mlp_width=20), num_layers=3).build(nnx.Rngs(0))


def random_films(num_layers: int) -> Film:
    films = stacked_films(num_layers, 7, 12, nnx.Rngs(0))
    return jax.tree.map(lambda array: 0.3 * jax.random.normal(jax.random.key(array.size), array.shape), films)


def test_a_new_film_changes_nothing(stack):
    films = stacked_films(2, 7, 12, nnx.Rngs(0))
    found = modulated(stack, films, X, CONDITION, span=(0, 2))
    np.testing.assert_array_equal(found, stack(X, span=(0, 2)))


def test_each_block_s_film_stands_between_its_attention_and_its_perceptron(stack):
    films, x = random_films(2), X
    for number in range(2):
        block, film = stack.block(number), jax.tree.map(operator.itemgetter(number), films)
        x = x + block.attention(block.attention_norm(x))
        scale, shift = film.scale(CONDITION), film.shift(CONDITION)
        x = x * (1 + scale[:, None]) + shift[:, None]
        x = x + block.mlp(block.mlp_norm(x))
    np.testing.assert_allclose(modulated(stack, films, X, CONDITION, span=(0, 2)), x, atol=1e-5)
    swapped = jax.tree.map(lambda all: all[::-1], films)
    assert np.abs(modulated(stack, swapped, X, CONDITION, span=(0, 2)) - x).max() > 1e-2


def test_maps_are_modulated_alike_everywhere():
    film = jax.tree.map(lambda all: all[0], random_films(1))
    maps = jnp.broadcast_to(X[:, :1, None], (2, 3, 4, 12))
    found = film(maps, CONDITION)
    np.testing.assert_allclose(found, jnp.broadcast_to(found[:, :1, :1], found.shape), atol=1e-6)
