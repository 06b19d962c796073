"""InfoNCE (DFA-VLA Eq. 15) under each reading of what the positive is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.fusion.contrast import ContrastConfig
from vla_jax.types import InputError

EVERY = jnp.ones(2, bool)


@pytest.fixture(scope="module")
def inputs():
    keys = jax.random.split(jax.random.key(0), 3)
    text, local = jax.random.normal(keys[0], (2, 6)), jax.random.normal(keys[1], (2, 4, 6))
    return text, local, jnp.array([[True] * 4, [True, True, True, False]]), jax.random.normal(keys[2], (2, 6))


def call(inputs, target=None, *, valid=EVERY, **changes):
    text, local, mask, pooled = inputs
    return ContrastConfig(**changes).build(nnx.Rngs(0))(text, local, mask, target, pooled, valid)


def cosines(text, local):
    return np.asarray(local @ text) / np.linalg.norm(local, axis=-1) / np.linalg.norm(text)


def test_the_box_of_the_task_is_the_positive_where_it_is_known(inputs):
    text, local, _, _ = inputs
    total, count = call(inputs, jnp.array([2, -1]))
    logits = cosines(text[0], local[0]) / 0.07
    assert count == 1
    assert total == pytest.approx(np.log(np.exp(logits).sum()) - logits[2], rel=1e-4)


def test_nothing_is_lost_on_unknown_padded_or_missing_targets(inputs):
    for target, valid in ((jnp.array([-1, -1]), EVERY), (jnp.array([-1, 3]), EVERY), (jnp.array([1, 1]), ~EVERY)):
        total, count = call(inputs, target, valid=valid)
        assert (total, count) == (0, 0)
    assert call(inputs, None) == (0, 0)


def test_padded_boxes_are_no_negatives(inputs):
    text, local, mask, pooled = inputs
    noisy = (text, local.at[1, 3].set(text[1] * 9), mask, pooled)
    for changes in ({}, {"positive": "self"}):
        np.testing.assert_allclose(
            call(inputs, jnp.array([0, 1]), **changes)[0], call(noisy, jnp.array([0, 1]), **changes)[0]
        )


def test_the_most_alike_box_may_be_the_positive(inputs):
    text, local, _, _ = inputs
    best = jnp.array([cosines(text[0], local[0]).argmax(), cosines(text[1], local[1][:3]).argmax()])
    assert call(inputs, positive="self") == call(inputs, best)


def test_the_other_samples_may_be_the_negatives(inputs):
    text, _, _, pooled = inputs
    total, count = call(inputs, positive="in_batch")
    logits = np.stack([cosines(text[i], pooled) / 0.07 for i in range(2)])
    assert count == 2
    assert total == pytest.approx((np.log(np.exp(logits).sum(1)) - np.diag(logits)).sum(), rel=1e-4)
    alone, count = call(inputs, positive="in_batch", valid=jnp.array([True, False]))
    assert count == 1
    assert alone == pytest.approx(0, abs=1e-6), "without negatives there is nothing to tell apart"


def test_the_temperature_trains_if_it_is_to(inputs):
    text, local, mask, pooled = inputs
    module = ContrastConfig(learn_temperature=True).build(nnx.Rngs(0))
    fixed = call(inputs, jnp.array([0, 1]))[0]
    np.testing.assert_allclose(module(text, local, mask, jnp.array([0, 1]), pooled, EVERY)[0], fixed, rtol=1e-5)
    module.log_temperature[...] = jnp.log(0.5)
    warm = call(inputs, jnp.array([0, 1]), temperature=0.5)[0]
    np.testing.assert_allclose(module(text, local, mask, jnp.array([0, 1]), pooled, EVERY)[0], warm, rtol=1e-5)


def test_boxes_are_asked_for_by_name(inputs):
    text, local, mask, pooled = inputs
    with pytest.raises(InputError, match="in_batch"):
        call((text, local[:, :0], mask[:, :0], pooled), jnp.array([0, 1]))
    with pytest.raises(InputError, match="temperature=0"):
        ContrastConfig(temperature=0.0)
