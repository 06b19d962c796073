import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.fusion.pooling import AttentionPoolingConfig, LinearPoolingConfig
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


def test_normed_queries_are_what_the_residual_starts_from():
    """The published PyTorch code: whatever is added to all channels of the queries is lost."""
    sizes = {"out_width": 32, "num_queries": 4, "num_heads": 2, "mlp_width": 16}
    tokens = jax.random.normal(jax.random.key(0), (1, 6, 12))
    for residual, is_lost in (("normed", True), ("queries", False)):
        pooling = AttentionPoolingConfig(residual=residual, **sizes).build(12, nnx.Rngs(0))
        before = pooling(tokens)
        pooling.queries[...] = pooling.queries[...] + 3.0
        assert np.allclose(pooling(tokens), before, atol=1e-4) is is_lost


def test_a_final_norm_leaves_every_query_with_unit_variance():
    sizes = {"out_width": 32, "num_queries": 4, "num_heads": 2, "mlp_width": 16}
    tokens = jax.random.normal(jax.random.key(0), (1, 6, 12))
    for final_norm in (True, False):
        pooled = AttentionPoolingConfig(final_norm=final_norm, **sizes).build(12, nnx.Rngs(0))(tokens)
        assert np.allclose(pooled.reshape(4, 8).var(axis=1), 1, atol=1e-2) is final_norm


def test_linear_pooling_reads_the_mean_of_the_tokens_that_count():
    pooling = LinearPoolingConfig(out_width=5).build(12, nnx.Rngs(0))
    tokens = jax.random.normal(jax.random.key(0), (2, 6, 12))
    mask = jnp.arange(6)[None] < jnp.array([[4], [6]])
    np.testing.assert_allclose(pooling(tokens)[0], pooling.projection(tokens[0].mean(0)), atol=1e-6)
    np.testing.assert_allclose(pooling(tokens, mask)[0], pooling.projection(tokens[0, :4].mean(0)), atol=1e-6)


def test_width_that_does_not_divide_is_refused():
    with pytest.raises(InputError, match="out_width=100"):
        AttentionPoolingConfig(out_width=100)
