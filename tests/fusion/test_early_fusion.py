"""What Eq. 4 of EF-VLA promises."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from flax import nnx

from vla_jax.fusion.early_fusion import EarlyFusionConfig
from vla_jax.nn.norms import l2_normalize
from vla_jax.nn.positions import sinusoidal
from vla_jax.parameters import split
from vla_jax.types import InputError


@pytest.fixture
def text():
    return l2_normalize(jax.random.normal(jax.random.key(0), (2, 5, 8)))


@pytest.fixture
def patches():
    return l2_normalize(jax.random.normal(jax.random.key(1), (2, 9, 8)))


def test_rows_are_distributions_over_patches(text, patches):
    attention = EarlyFusionConfig().build(nnx.Rngs(0)).attention(text, patches)
    np.testing.assert_allclose(attention.sum(-1), 1.0, rtol=1e-6)
    assert attention.shape == (2, 5, 9)


def test_equals_the_equation_written_out(text, patches):
    fused = EarlyFusionConfig(initial_temperature=0.2).build(nnx.Rngs(0))(text, patches)
    for sample in range(2):
        for token in range(5):
            logits = np.array([np.dot(text[sample, token], patch) / 0.2 for patch in patches[sample]])
            weights = np.exp(logits) / np.exp(logits).sum()
            np.testing.assert_allclose(fused[sample, token], weights @ np.asarray(patches[sample]), atol=1e-5)


def test_fused_rows_lie_within_the_unit_ball(text, patches):
    assert jnp.linalg.norm(EarlyFusionConfig().build(nnx.Rngs(0))(text, patches), axis=-1).max() <= 1 + 1e-6


def test_fused_rows_lie_in_the_convex_hull_of_the_patches(text, patches):
    fused = EarlyFusionConfig().build(nnx.Rngs(0))(text, patches)
    for sample in range(2):
        corners = np.vstack([np.asarray(patches[sample], np.float64).T, np.ones(9)])  # weights sum to one
        for row in np.asarray(fused[sample], np.float64):
            assert scipy.optimize.nnls(corners, np.append(row, 1.0))[1] < 1e-5
    outside = 2 * np.asarray(patches[0, 0], np.float64)
    assert scipy.optimize.nnls(corners, np.append(outside, 1.0))[1] > 1e-2


def test_patch_order_matters_only_with_value_positions(text, patches):
    order = np.random.default_rng(0).permutation(9)
    for positions in (False, True):
        fusion = EarlyFusionConfig(value_positions=positions).build(nnx.Rngs(0))
        same = np.allclose(fusion(text, patches), fusion(text, patches[:, order]), atol=1e-5)
        assert same is not positions


@pytest.mark.parametrize("initial", [0.07, 0.005])
def test_temperature_trains_even_from_outside_its_clip(text, patches, initial):
    """0.005 is where the published code starts: beyond its clip, with no gradient ever after."""
    structure, parameters = split(EarlyFusionConfig(initial_temperature=initial).build(nnx.Rngs(0)))
    target = patches.mean(1, keepdims=True)

    def loss(parameters):
        return jnp.abs(structure.merge(parameters)(text, patches) - target).sum()

    optimizer = optax.adam(0.3)
    state, first = optimizer.init(parameters), loss(parameters)
    for _ in range(30):
        updates, state = optimizer.update(jax.grad(loss)(parameters), state)
        parameters = optax.apply_updates(parameters, updates)
    assert loss(parameters) < 0.7 * first
    assert parameters["log_scale"] < math.log(1 / initial) - 1


def test_scale_never_exceeds_a_hundred():
    assert EarlyFusionConfig(initial_temperature=0.005).build(nnx.Rngs(0)).scale() == pytest.approx(100.0)


def test_fixed_temperature_gets_no_gradient(text, patches):
    structure, parameters = split(EarlyFusionConfig(learn_temperature=False).build(nnx.Rngs(0)))
    assert jax.grad(lambda p: structure.merge(p)(text, patches).sum())(parameters)["log_scale"] == 0.0


def test_a_plain_temperature_divides_trains_and_stays_within_its_clip(text, patches):
    """The published PyTorch code: tau itself is the parameter."""
    config = EarlyFusionConfig(temperature="plain", initial_temperature=0.2)
    plain, log = config.build(nnx.Rngs(0)), EarlyFusionConfig(initial_temperature=0.2).build(nnx.Rngs(0))
    np.testing.assert_allclose(plain(text, patches), log(text, patches), atol=1e-6)
    structure, parameters = split(plain)
    gradient = jax.grad(lambda p: jnp.square(structure.merge(p)(text, patches)).sum())(parameters)["tau"]
    assert abs(gradient) > 1e-4
    assert structure.merge({"tau": jnp.float32(1e6)}).scale() == pytest.approx(0.01)


def test_the_published_jax_code_never_moves_from_a_hundred(text, patches):
    theirs = EarlyFusionConfig(initial_temperature=0.005, learn_temperature=False).build(nnx.Rngs(0))
    structure, parameters = split(theirs)
    assert theirs.scale() == pytest.approx(math.exp(4.6052), rel=1e-4)
    assert jax.grad(lambda p: structure.merge(p)(text, patches).sum())(parameters)["log_scale"] == 0.0


def test_position_layouts_have_the_same_numbers_in_another_order(text, patches):
    halves = sinusoidal(9, 8, "halves")
    np.testing.assert_array_equal(halves[:, :4], sinusoidal(9, 8)[:, 0::2])
    np.testing.assert_array_equal(halves[:, 4:], sinusoidal(9, 8)[:, 1::2])
    one, other = (
        EarlyFusionConfig(value_positions=True, position_layout=layout).build(nnx.Rngs(0))(text, patches)
        for layout in ("interleaved", "halves")
    )
    assert np.abs(one - other).max() > 0.1


def test_nonpositive_temperature_is_refused():
    with pytest.raises(InputError, match="initial_temperature"):
        EarlyFusionConfig(initial_temperature=0.0)
