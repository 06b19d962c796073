"""Model 1's fusion: two vectors multiplied in a shared space."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vla_jax.fusion.elementwise import ElementwiseConfig

GRID, TEXT = jax.random.normal(jax.random.key(0), (2, 14, 14, 5)), jax.random.normal(jax.random.key(1), (2, 6))


def test_the_map_shrinks_twice_and_its_mean_meets_the_text():
    module = ElementwiseConfig(width=8).build(5, 6, nnx.Rngs(0))
    out = module(GRID, TEXT)
    assert out.map.shape == (2, 16, 8)
    np.testing.assert_allclose(out.fused, module.visual(out.map.mean(1)) * module.text(TEXT), rtol=1e-5, atol=1e-6)


def test_words_that_say_nothing_leave_nothing_of_the_picture_but_in_a_sum():
    times, plus = (
        ElementwiseConfig(width=8, operation=operation).build(5, 6, nnx.Rngs(0)) for operation in ("multiply", "add")
    )
    assert np.abs(times(GRID, jnp.zeros_like(TEXT)).fused).max() == 0
    assert np.abs(plus(GRID, jnp.zeros_like(TEXT)).fused).max() > 1e-3
