"""Diffusion: the loss at known noise, an oracle that knows the action, draws, masks; both denoisers learn a batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from vla_jax.actions.diffusion import Denoiser, DenoiserConfig, DiffusionConfig, betas
from vla_jax.actions.residual_denoiser import ResidualDenoiserConfig
from vla_jax.actions.unet_denoiser import UnetDenoiserConfig
from vla_jax.parameters import split
from vla_jax.types import ActionSpace, Dimension, InputError, PolicyContext

HORIZON, ACTION, WIDTH, STEPS = 3, 5, 6, 20
SPACE = ActionSpace(
    form="toy",
    horizon=HORIZON,
    dimensions=tuple(Dimension(name=f"a{i}", unit="m") for i in range(ACTION)),
    proprio=(),
)
KEPT = np.cumprod(1 - betas(STEPS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class OracleConfig(DenoiserConfig):
    """Knows the action: the read-out is it. `factor` spoils what it says of the noise."""

    factor: float = 1.0

    def build(self, condition_width, action_space, rngs):
        return Oracle(self)


class Oracle(Denoiser):
    def __init__(self, config):
        self.config = config

    def __call__(self, noisy, time, condition):
        kept = jnp.asarray(KEPT, jnp.float32)[time][..., None, None]
        clean = condition.reshape(noisy.shape)
        return self.config.factor * (noisy - jnp.sqrt(kept) * clean) / jnp.sqrt(1 - kept)


def oracle(factor=1.0, **changes):
    config = DiffusionConfig(denoiser=OracleConfig(factor=factor), num_steps=STEPS, **changes)
    return config.build(HORIZON * ACTION, SPACE, nnx.Rngs(0))


@pytest.fixture(scope="module")
def action():
    return jax.random.uniform(jax.random.key(0), (2, 2, HORIZON, ACTION), minval=-0.9, maxval=0.9)


def knows(action) -> PolicyContext:
    return PolicyContext(queries=action.reshape(*action.shape[:2], -1))


def test_the_schedule_is_the_cosine_one():
    beta = betas(100)
    assert beta.max() == 0.999
    assert (np.diff(beta) >= 0).all()
    kept = np.cumprod(1 - beta)[:-1]
    angles = (np.arange(1, 100) / 100 + 0.008) / 1.008 * np.pi / 2
    np.testing.assert_allclose(kept, np.cos(angles) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2, rtol=1e-9)


@pytest.mark.parametrize(
    "changes",
    [{}, {"sampler": "ddim", "limit": 1.0}, {"sampler": "ddim", "limit": 1.0, "num_sampling_steps": 4}],
    ids=["ddpm", "ddim", "ddim of 4 steps"],
)
@pytest.mark.parametrize("key", [None, 3])
def test_an_oracle_that_knows_the_noise_leads_to_the_action(action, changes, key):
    key = None if key is None else jax.random.key(key)
    found = oracle(**changes).sample(knows(action), key=key)
    np.testing.assert_allclose(found, action, atol=1e-5)
    if key is not None:
        spoiled = oracle(0.8, **changes).sample(knows(action), key=key)
        assert np.abs(spoiled - action).max() > 0.01


def test_actions_beyond_the_limit_are_clipped(action):
    found = oracle(sampler="ddim", limit=0.5).sample(knows(action), key=None)
    np.testing.assert_allclose(found, np.clip(action, -0.5, 0.5), atol=1e-5)


def test_the_loss_at_known_noise(action):
    mask = jnp.ones(action.shape, bool).at[0, 0].set(False)
    time = jnp.array([[[0, 7], [19, 3]]])
    noise = jax.random.normal(jax.random.key(1), (1, *action.shape))
    assert oracle().loss_at(knows(action), action, mask, time, noise).total < 1e-6
    losses = oracle(0.5).loss_at(knows(action), action, mask, time, noise)
    expected = 0.25 * np.square(noise[0])[np.asarray(mask)].mean()
    np.testing.assert_allclose(losses.terms["noise_mse"], expected, rtol=1e-4)
    np.testing.assert_allclose(losses.total, ACTION * expected, rtol=1e-4)
    assert losses.weight == mask.sum()
    mean = oracle(0.5, summed=False).loss_at(knows(action), action, mask, time, noise)
    np.testing.assert_allclose(mean.total, expected, rtol=1e-4)


def test_several_draws_are_the_mean_of_single_ones(action):
    mask = jnp.ones(action.shape, bool)
    time = jax.random.randint(jax.random.key(2), (4, 2, 2), 0, STEPS)
    noise = jax.random.normal(jax.random.key(3), (4, *action.shape))
    head = oracle(0.5)
    all_at_once = head.loss_at(knows(action), action, mask, time, noise).total
    singly = [head.loss_at(knows(action), action, mask, time[i : i + 1], noise[i : i + 1]).total for i in range(4)]
    np.testing.assert_allclose(all_at_once, np.mean(singly), rtol=1e-5)


DENOISERS = {
    "residual": ResidualDenoiserConfig(time_width=6, hidden_width=48, num_blocks=2),
    "unet": UnetDenoiserConfig(widths=(12, 16), num_groups=4, time_width=12),
}


@pytest.fixture(scope="module", params=sorted(DENOISERS))
def head(request):
    config = DiffusionConfig(
        denoiser=DENOISERS[request.param],
        num_steps=STEPS,
        sampler="ddim",
        num_sampling_steps=10,
        limit=1.0,
        num_draws=8,
    )
    return config.build(WIDTH, SPACE, nnx.Rngs(0))


@pytest.fixture(scope="module")
def context():
    return PolicyContext(queries=jax.random.normal(jax.random.key(4), (2, 2, WIDTH)))


def test_masked_targets_change_nothing(head, context, action):
    mask = jnp.ones(action.shape, bool).at[0, 1].set(False).at[1, 0, :, 2].set(False)
    loss = jax.jit(lambda action: head.loss(context, action, mask, key=None).total)
    assert loss(action) == loss(jnp.where(mask, action, 77.0))
    assert loss(action) != loss(jnp.where(mask, 0.5 * action, action))


def test_samples_follow_the_key_and_without_one_nothing_is_drawn(head, context):
    draw = jax.jit(lambda key: head.samples(context, key=key, count=2))
    drawn = draw(jax.random.key(6))
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-3
    np.testing.assert_array_equal(drawn, draw(jax.random.key(6)))
    assert np.abs(drawn - draw(jax.random.key(7))).max() > 1e-3
    still = draw(None)
    np.testing.assert_allclose(still[0], still[1], atol=1e-4)


def test_a_denoiser_learns_a_batch(head, context, action):
    structure, parameters = split(head)
    num_steps, share = 300, 1 / 2
    mask, optimizer = jnp.ones(action.shape, bool), optax.adam(optax.cosine_decay_schedule(1e-2, num_steps))

    def loss(parameters, key):
        return structure.merge(parameters).loss(context, action, mask, key=key).total

    def step(carry, key):
        value, gradient = jax.value_and_grad(loss)(carry[0], key)
        updates, state = optimizer.update(gradient, carry[1])
        return (optax.apply_updates(carry[0], updates), state), value

    @jax.jit
    def trained(parameters):
        keys = jax.random.split(jax.random.key(7), num_steps)
        (parameters, _), losses = jax.lax.scan(step, (parameters, optimizer.init(parameters)), keys)
        return parameters, losses

    error = jax.jit(lambda p: jnp.abs(structure.merge(p).sample(context, key=None) - action).mean())
    learned, losses = trained(parameters)
    assert losses[-10:].mean() < share * losses[0]
    assert error(learned) < share * error(parameters)


def test_impossible_settings_are_refused():
    for changes, message in (
        ({"num_steps": 0}, "num_steps=0"),
        ({"sampler": "ddpm", "num_sampling_steps": 5}, "takes all 20 steps"),
        ({"sampler": "ddim", "num_sampling_steps": 21}, "num_sampling_steps=21"),
    ):
        with pytest.raises(InputError, match=message):
            DiffusionConfig(denoiser=OracleConfig(), **changes)
