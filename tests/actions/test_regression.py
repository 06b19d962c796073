import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.actions.regression import RegressionConfig
from vla_jax.types import ActionSpace, Dimension, PolicyContext

SPACE = ActionSpace(
    form="relative_pose",
    horizon=3,
    dimensions=(Dimension(name="x", unit="m"), Dimension(name="y", unit="m")),
    proprio=(),
)


@pytest.mark.parametrize("hidden_widths", [(), (16,)])
def test_loss_is_the_mean_over_valid_targets_only(hidden_widths):
    head = RegressionConfig(hidden_widths=hidden_widths).build(8, SPACE, nnx.Rngs(0))
    context = PolicyContext(queries=jax.random.normal(jax.random.key(0), (2, 4, 8)))
    action = jax.random.normal(jax.random.key(1), (2, 4, 3, 2))
    mask = jax.random.bernoulli(jax.random.key(2), 0.5, action.shape)
    losses = head.loss(context, action, mask, key=None)
    error = np.abs(np.asarray(head.sample(context, key=None)) - np.asarray(action))
    assert losses.total == pytest.approx(error[np.asarray(mask)].mean(), rel=1e-6)
    assert losses.weight == mask.sum()
    assert losses.total != pytest.approx(error.mean(), rel=1e-3)
    moved = jnp.where(mask, action, 99.0)
    assert head.loss(context, moved, mask, key=None).total == losses.total


def test_a_batch_without_targets_has_zero_loss_and_finite_gradient():
    head = RegressionConfig().build(8, SPACE, nnx.Rngs(0))

    def loss(queries):
        action = jnp.zeros((1, 4, 3, 2))
        return head.loss(PolicyContext(queries=queries), action, jnp.zeros(action.shape, bool), key=None).total

    value, gradient = jax.value_and_grad(loss)(jnp.ones((1, 4, 8)))
    assert value == 0.0
    assert np.isfinite(gradient).all()
