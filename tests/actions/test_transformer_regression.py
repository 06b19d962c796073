"""Decoding by learned queries: Huber loss, masks, bins."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from vla_jax.actions.transformer_regression import TransformerRegressionConfig
from vla_jax.parameters import split
from vla_jax.types import ActionSpace, Dimension, InputError, PolicyContext

SPACE = ActionSpace(
    form="delta_pose", horizon=3, dimensions=tuple(Dimension(name=f"a{i}", unit="") for i in range(4)), proprio=()
)
SMALL = TransformerRegressionConfig(width=20, num_heads=2, mlp_width=28)
CONFIGS = {
    "queries": SMALL,
    "mean": dataclasses.replace(SMALL, reader="mean"),
    "bins": dataclasses.replace(SMALL, bins=8, bin_weight=0.1),
}


@pytest.fixture(scope="module")
def context():
    tokens = jax.random.normal(jax.random.key(0), (2, 6, 11))
    return PolicyContext(tokens=tokens, mask=jnp.arange(6) < jnp.array([6, 4])[:, None])


@pytest.fixture(scope="module")
def target():
    action = 0.9 * jnp.sin(jnp.arange(24.0)).reshape(2, 1, 3, 4)
    return action, jnp.ones_like(action, bool).at[1, 0, 2].set(False)


def build(name):
    return CONFIGS[name].build(11, SPACE, nnx.Rngs(0))


def test_it_has_the_size_that_the_papers_table_says():
    published = nnx.eval_shape(lambda: TransformerRegressionConfig().build(4096, SPACE, nnx.Rngs(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(published)))
    assert count / 1e6 == pytest.approx(37.8, rel=0.005)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_actions_stay_within_one_and_padding_changes_nothing(name, context, target):
    head, (action, mask) = build(name), target
    actions = head.sample(context, key=None)
    assert actions.shape == (2, 1, 3, 4)
    assert np.abs(actions).max() < 1
    noisy = dataclasses.replace(context, tokens=jnp.where(context.mask[..., None], context.tokens, 1e3))
    np.testing.assert_allclose(head.sample(noisy, key=None), actions, atol=1e-5)
    changed = jnp.where(mask, action, jnp.nan)
    losses = head.loss(context, changed, mask, key=None)
    assert losses.total == head.loss(context, action, mask, key=None).total
    assert losses.weight == 20


def test_the_loss_is_hubers(context, target):
    """0.5 e^2 below 1, |e| - 0.5 above, by Eq. 14."""
    head, mask = build("queries"), target[1]
    action = target[0] * 4
    error = np.abs(np.asarray(head.sample(context, key=None) - action))[np.asarray(mask)]
    assert (error > 1).any()
    assert (error < 1).any()
    expected = np.where(error < 1, 0.5 * error**2, error - 0.5).mean()
    assert head.loss(context, action, mask, key=None).total == pytest.approx(expected, rel=1e-5)


def test_bins_give_their_expected_centre_and_may_have_cross_entropy(context, target):
    head, (action, mask) = build("bins"), target
    head.out.kernel[...] = jnp.zeros_like(head.out.kernel[...])
    logits = jnp.zeros((4, 8)).at[:, 6].set(100.0)
    head.out.bias[...] = logits.reshape(-1)
    np.testing.assert_allclose(head.sample(context, key=None), 13 / 8 - 1, rtol=1e-5)
    losses = head.loss(context, action, mask, key=None)
    np.testing.assert_allclose(losses.total, losses.terms["huber"] + 0.1 * losses.terms["bins"], rtol=1e-6)
    right = head.loss(context, jnp.full_like(action, 0.6), mask, key=None)
    assert right.terms["bins"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_it_overfits_one_batch(name, context, target):
    structure, parameters = split(build(name))
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(parameters, state):
        def loss(parameters):
            return structure.merge(parameters).loss(context, *target, key=None).terms["huber"]

        value, gradient = jax.value_and_grad(loss)(parameters)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(parameters, updates), state, value

    state = optimizer.init(parameters)
    losses = []
    for _ in range(150):
        parameters, state, value = step(parameters, state)
        losses.append(float(value))
    assert losses[-1] < 0.02 * losses[0]


def test_impossible_configs_are_refused():
    with pytest.raises(InputError, match="bins=1"):
        TransformerRegressionConfig(bins=1)
    with pytest.raises(InputError, match="no bins"):
        TransformerRegressionConfig(bin_weight=0.1)
