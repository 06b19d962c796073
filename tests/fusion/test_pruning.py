"""Action-guided visual pruning: a planted peak is found, and what each alternative does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vla_jax.fusion import pruning
from vla_jax.fusion.pruning import PruningConfig, Rows
from vla_jax.nn.attention import Projections
from vla_jax.types import InputError

LENGTH, VISUAL, ROWS = 24, (3, 19), Rows(21, 24, (3, 19))
"""A picture of 4 x 4 tokens, and three action tokens at the end."""


def _projections(key=0, *, peak: int | None = None) -> Projections:
    keys = jax.random.split(jax.random.key(key), 3)
    query = jax.random.normal(keys[0], (2, LENGTH, 4, 6))
    key, value = (jax.random.normal(k, (2, LENGTH, 2, 6)) for k in keys[1:])
    if peak is not None:  # that token's key is along the mean query of each group
        direction = query[:, ROWS.start : ROWS.stop].reshape(2, 3, 2, 2, 6).mean(axis=(1, 3))
        key = key.at[:, VISUAL[0] + peak].set(20 * direction)
    return Projections(query, key, value)


def _mask() -> jax.Array:
    causal = jnp.tril(jnp.ones((LENGTH, LENGTH), bool)) | (jnp.arange(LENGTH) >= ROWS.start)[:, None]
    return jnp.broadcast_to(causal, (2, LENGTH, LENGTH))


def _scores(config: PruningConfig, found: Projections, mask=None) -> jax.Array:
    seen = pruning.look(config, ROWS, _mask() if mask is None else mask)(found)
    return pruning.mean_over_rows(seen[None])


@pytest.mark.parametrize("peak", [0, 6, 15])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest", "bicubic"])
def test_a_planted_peak_is_kept_at_its_place_on_the_finer_grid(peak, interpolation):
    config = PruningConfig(ratio=15 / 16, interpolation=interpolation)
    scores = _scores(config, _projections(peak=peak))
    assert (jnp.argmax(scores, axis=1) == peak).all()
    places = pruning.choose(config, pruning.enlarge(config, scores, (4, 4), (8, 8)))
    row, column = divmod(peak, 4)
    expected = [8 * (2 * row + r) + 2 * column + c for r in (0, 1) for c in (0, 1)]
    np.testing.assert_array_equal(places, [expected] * 2)


def test_the_map_is_the_layer_s_own_attention_of_the_guiding_rows_on_visual_columns():
    found, mask = _projections(), _mask()
    query = found.query[:, ROWS.start : ROWS.stop]
    key = jnp.repeat(found.key, 2, axis=2)  # heads 0 and 1 share a group
    scores = jnp.einsum("brhf,bnhf->bhrn", query, key) * 6**-0.5
    weights = jax.nn.softmax(jnp.where(mask[:, None, ROWS.start : ROWS.stop], scores, -jnp.inf), axis=-1)
    expected = weights[..., slice(*VISUAL)]
    for reduction, reduced in (("mean", expected.mean(1)), ("max", expected.max(1))):
        found_map = pruning.look(PruningConfig(head_reduction=reduction), ROWS, mask)(found)
        np.testing.assert_allclose(found_map, reduced, atol=1e-6)
    assert (expected.sum(-1) < 0.99).all(), "the softmax is over the whole row, not the visual columns alone"
    visual = pruning.look(PruningConfig(normalization="visual"), ROWS, mask)(found)
    np.testing.assert_allclose(visual, (expected / expected.sum(-1, keepdims=True)).mean(1), atol=1e-6)


def test_hidden_columns_have_no_weight_and_masked_rows_do_not_count():
    hidden = _mask().at[0, :, VISUAL[0] + 5].set(False)
    seen = pruning.look(PruningConfig(), ROWS, hidden)(_projections())
    assert (seen[0, :, 5] == 0).all()
    assert (seen[1, :, 5] > 0).all()
    row_mask = jnp.array([[True, False, False], [False, False, False]])
    means = pruning.mean_over_rows(seen[None], row_mask)
    np.testing.assert_allclose(means[0], seen[0, 0], atol=1e-7)
    assert (means[1] == 0).all(), "a sample without any row has no map, and no NaN"


def test_a_ratio_of_nothing_keeps_every_token_where_it_was():
    config, tokens = PruningConfig(ratio=0.0), jax.random.normal(jax.random.key(1), (2, 9, 5))
    places = pruning.choose(config, jax.random.normal(jax.random.key(2), (2, 9)))
    np.testing.assert_array_equal(places, [range(9)] * 2)
    np.testing.assert_array_equal(pruning.take(tokens, places), tokens)


def test_kept_tokens_stay_in_the_order_of_the_grid():
    scores = jnp.array([[0.1, 0.9, 0.3, 0.8]])
    np.testing.assert_array_equal(pruning.choose(PruningConfig(), scores), [[1, 3]])
    np.testing.assert_array_equal(pruning.choose(PruningConfig(ratio=0.25), scores), [[1, 2, 3]])


def test_the_gradient_of_a_choice_is_that_of_a_gather():
    tokens, weights = (jax.random.normal(jax.random.key(n), (2, length, 5)) for n, length in ((1, 9), (2, 4)))
    places = jnp.array([[0, 3, 4, 8], [1, 2, 5, 7]])

    def gradient(take, weights):
        return jax.grad(lambda tokens: (take(tokens, places) * weights).sum())(tokens)

    found = gradient(pruning.take, weights)
    expected = gradient(lambda tokens, places: jnp.take_along_axis(tokens, places[..., None], axis=1), weights)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        jax.vmap(pruning.take, (0, None))(tokens[None], places)[0], pruning.take(tokens, places)
    )
    assert (gradient(pruning.take, weights[:, ::-1]) != expected).any(), "another order of rows is another gradient"


def test_no_gradient_flows_through_the_choice():
    def kept(found: Projections) -> jax.Array:
        places = pruning.choose(PruningConfig(), _scores(PruningConfig(), found))
        return pruning.take(found.value[:, slice(*VISUAL)], places).sum() + _scores(PruningConfig(), found).sum()

    gradient = jax.grad(kept)(_projections())
    assert not gradient.query.any()
    assert not gradient.key.any()
    assert gradient.value.any()


def test_impossible_ratios_are_refused():
    for ratio in (-0.1, 1.0):
        with pytest.raises(InputError, match="ratio"):
            dataclasses.replace(PruningConfig(), ratio=ratio)
