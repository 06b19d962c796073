import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from vla_jax.actions.token_regression import TokenRegressionConfig
from vla_jax.parameters import split
from vla_jax.types import ActionSpace, Dimension, InputError, PolicyContext

SPACE = ActionSpace(
    form="delta_pose", horizon=3, dimensions=tuple(Dimension(name=f"a{i}", unit="") for i in range(4)), proprio=()
)


def _context(num_tokens: int, seed: int = 0) -> PolicyContext:
    return PolicyContext(tokens=jax.random.normal(jax.random.key(seed), (2, num_tokens, 10)))


@pytest.mark.parametrize(("token", "num_tokens"), [("step", 3), ("dimension", 12)])
def test_each_token_makes_its_own_entries_and_tokens_before_them_are_not_read(token, num_tokens):
    config = TokenRegressionConfig(token=token)
    assert config.num_tokens(SPACE) == num_tokens
    head = config.build(10, SPACE, nnx.Rngs(0))
    tokens = _context(num_tokens + 5).tokens
    chunk = head.sample(PolicyContext(tokens=tokens), key=None)
    assert chunk.shape == (2, 1, 3, 4)
    changed = head.sample(PolicyContext(tokens=tokens.at[:, :5].add(1.0).at[:, 5 + 1].add(1.0)), key=None)
    moved = np.abs(changed - chunk).reshape(2, num_tokens, -1).max(axis=(0, 2)) > 1e-4
    np.testing.assert_array_equal(moved, np.arange(num_tokens) == 1)


def test_the_loss_is_the_mean_absolute_error_of_the_valid_targets_of_the_last_step():
    head, context = TokenRegressionConfig().build(10, SPACE, nnx.Rngs(0)), _context(3)
    action = jax.random.normal(jax.random.key(1), (2, 2, 3, 4))
    mask = jax.random.bernoulli(jax.random.key(2), 0.5, action.shape)
    losses = head.loss(context, action, mask, key=None)
    error = np.abs(head.sample(context, key=None)[:, 0] - action[:, 1])
    np.testing.assert_allclose(losses.total, error[np.asarray(mask[:, 1])].mean(), rtol=1e-5)
    assert losses.weight == mask[:, 1].sum()
    nothing = head.loss(context, action, jnp.zeros_like(mask), key=None)
    assert nothing.total == 0


@pytest.mark.parametrize("token", ["step", "dimension"])
def test_it_overfits_one_batch(token):
    config = TokenRegressionConfig(token=token, hidden_width=32)
    structure, parameters = split(config.build(10, SPACE, nnx.Rngs(0)))
    context = _context(config.num_tokens(SPACE))
    action = jax.random.normal(jax.random.key(1), (2, 1, 3, 4))
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 600))

    def loss(parameters):
        return structure.merge(parameters).loss(context, action, jnp.ones_like(action, bool), key=None).total

    @jax.jit
    def step(parameters, state):
        updates, state = optimizer.update(jax.grad(loss)(parameters), state)
        return optax.apply_updates(parameters, updates), state

    state = optimizer.init(parameters)
    for _ in range(600):
        parameters, state = step(parameters, state)
    assert loss(parameters) < 0.02


def test_a_head_of_no_width_is_refused():
    with pytest.raises(InputError, match="hidden_width=0"):
        TokenRegressionConfig(hidden_width=0)
