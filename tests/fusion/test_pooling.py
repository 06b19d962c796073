import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.fusion.pooling import AttentionPoolingConfig
from vla_jax.types import InputError


def test_masked_tokens_change_nothing():
    pooling = AttentionPoolingConfig(out_width=32, num_queries=4, num_heads=2, mlp_width=16).build(12, nnx.Rngs(0))
    tokens = jax.random.normal(jax.random.key(0), (2, 6, 12))
    mask = jnp.arange(6)[None] < jnp.array([[4], [6]])
    changed = tokens.at[0, 4:].set(7.0)
    np.testing.assert_allclose(pooling(tokens, mask), pooling(changed, mask), atol=1e-6)
    assert not np.allclose(pooling(tokens), pooling(changed))
    assert pooling(tokens).shape == (2, 32)


def test_queries_differ_from_the_start():
    pooling = AttentionPoolingConfig(out_width=32, num_queries=4, num_heads=2, mlp_width=16).build(12, nnx.Rngs(0))
    pooled = np.asarray(pooling(jax.random.normal(jax.random.key(0), (1, 6, 12)))).reshape(4, 8)
    assert np.abs(pooled[0] - pooled[1]).max() > 1e-3


def test_width_that_does_not_divide_is_refused():
    with pytest.raises(InputError, match="out_width=100"):
        AttentionPoolingConfig(out_width=100)
