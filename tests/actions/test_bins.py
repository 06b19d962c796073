"""Actions as tokens: which targets count, what stands in for masked ones, and the way back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vla_jax.actions.bins import BinsConfig, Targets
from vla_jax.language.action_tokens import ActionTokens
from vla_jax.types import ActionSpace, Dimension

SPACE = ActionSpace(
    form="toy", horizon=2, dimensions=tuple(Dimension(name=f"a{i}", unit="m") for i in range(3)), proprio=()
)
CODEC = ActionTokens(vocab_size=300)


@pytest.fixture(scope="module")
def bins():
    return BinsConfig(end_id=5).build(CODEC, SPACE)


def test_tokens_run_step_by_step_and_come_back_within_half_a_bin(bins):
    action = jnp.linspace(-1, 1, 12).reshape(2, 1, 2, 3)
    ids, valid = bins.targets(action, jnp.ones(action.shape, bool))
    assert ids.shape == (2, 7)
    assert (ids[:, -1] == 5).all()
    assert valid.all()
    np.testing.assert_array_equal(ids[:, :6], CODEC.encode(action.reshape(2, 6)))
    back = bins.actions(ids[:, :6])
    assert back.shape == action.shape
    assert np.abs(back - action).max() <= 1 / 255 + 1e-6


def test_a_masked_target_reads_as_the_middle_and_takes_the_end_with_it(bins):
    action, mask = jnp.full((2, 1, 2, 3), 0.9), jnp.ones((2, 1, 2, 3), bool).at[1, 0, 1, 2].set(False)
    ids, valid = bins.targets(action, mask)
    assert valid[0].all()
    np.testing.assert_array_equal(valid[1], [True] * 5 + [False, False])
    assert ids[1, 5] == CODEC.encode(jnp.float32(0.0))
    changed, _ = bins.targets(jnp.where(mask, action, jnp.nan), mask)
    np.testing.assert_array_equal(changed, ids)


def test_the_loss_is_the_mean_over_valid_targets(bins):
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 300)), jnp.float32)
    ids, valid = bins.targets(jnp.full((2, 1, 2, 3), 0.3), jnp.ones((2, 1, 2, 3), bool).at[0, 0, 0].set(False))
    losses = bins.loss(logits, Targets(ids, valid), lambda x: x)
    surprise = -np.asarray(jnp.take_along_axis(jax.nn.log_softmax(logits), ids[..., None], axis=-1))[..., 0]
    assert losses.weight == 3 + 7
    np.testing.assert_allclose(losses.total, surprise[np.asarray(valid)].mean(), rtol=1e-5)


def test_no_token_is_no_action(bins):
    action = bins.actions(jnp.array([[299, 298, -1, 100, 3, 200]]))
    assert np.isnan(action).tolist() == [[[[False, False, True], [False, False, False]]]]


def test_without_an_end_only_actions_are_learned():
    ids, _ = BinsConfig(end_id=None).build(CODEC, SPACE).targets(jnp.zeros((1, 1, 2, 3)), jnp.ones((1, 1, 2, 3), bool))
    assert ids.shape == (1, 6)
