"""Schedule, clipping and weight decay against their formulas."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vla_jax.training.optimizer import OptimizerConfig, RateFactor
from vla_jax.types import InputError


def expected_rate(step, *, peak, warmup, total, final):
    if step < warmup:
        return peak * step / warmup
    share = min(1.0, (step - warmup) / (total - warmup))
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * share))


@pytest.mark.parametrize("step", [0, 1, 9, 10, 11, 55, 99, 100, 150])
def test_the_rate_warms_up_linearly_and_falls_on_a_half_cosine(step):
    schedule = OptimizerConfig(peak_rate=2e-3, warmup_steps=10, final_rate=1e-4).schedule(100)
    expected = expected_rate(step, peak=2e-3, warmup=10, total=100, final=1e-4)
    np.testing.assert_allclose(schedule(step), expected, rtol=1e-5, atol=1e-9)


def test_a_run_shorter_than_its_warmup_only_warms_up():
    schedule = OptimizerConfig(peak_rate=1.0, warmup_steps=2_000).schedule(40)
    np.testing.assert_allclose([schedule(20), schedule(40)], [0.5, 1.0], rtol=1e-6)


def adamw_numpy(parameters, gradients, config, rates):
    """AdamW with global-norm clipping, written from the formula."""
    first = {path: np.zeros_like(a) for path, a in parameters.items()}
    second = {path: np.zeros_like(a) for path, a in parameters.items()}
    for count, (gradient, rate) in enumerate(zip(gradients, rates), start=1):
        norm = math.sqrt(sum((g**2).sum() for g in gradient.values()))
        scale = min(1.0, config.clip_norm / norm) if config.clip_norm else 1.0
        for path, value in parameters.items():
            g = gradient[path] * scale
            first[path] = config.beta1 * first[path] + (1 - config.beta1) * g
            second[path] = config.beta2 * second[path] + (1 - config.beta2) * g**2
            update = first[path] / (1 - config.beta1**count)
            update = update / (np.sqrt(second[path] / (1 - config.beta2**count)) + config.epsilon)
            decay = config.weight_decay if path.endswith("/kernel") else 0.0
            parameters[path] = value - rate * (update + decay * value)
    return parameters


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_five_steps_match_adamw_in_numpy(clip_norm):
    config = OptimizerConfig(peak_rate=0.1, warmup_steps=2, weight_decay=0.3, clip_norm=clip_norm)
    random = np.random.default_rng(0)
    start = {"a/kernel": random.normal(size=(3, 4)), "a/bias": random.normal(size=4), "scale": np.array(1.5)}
    gradients = [{path: 3 * random.normal(size=np.shape(a)) for path, a in start.items()} for _ in range(5)]
    optimizer = config.build(8)
    ours = {path: jnp.asarray(a, jnp.float32) for path, a in start.items()}
    state = optimizer.init(ours)
    for gradient in gradients:
        updates, state = optimizer.update({p: jnp.asarray(g, jnp.float32) for p, g in gradient.items()}, state, ours)
        ours = optax.apply_updates(ours, updates)
    rates = [float(config.schedule(8)(step)) for step in range(5)]
    theirs = adamw_numpy(dict(start), gradients, config, rates)
    for path in start:
        np.testing.assert_allclose(ours[path], theirs[path], rtol=2e-5, atol=1e-5)


PARAMETERS = {"vlm/kernel": jnp.ones((2, 3)), "head/out/kernel": jnp.ones((3, 2)), "head/out/bias": jnp.ones(2)}


def _moved(config: OptimizerConfig) -> dict:
    """How far a few steps carry each parameter."""
    optimizer, parameters = config.build(4), PARAMETERS
    state = optimizer.init(parameters)
    for step in range(3):
        gradients = {path: jnp.full_like(array, 0.1 * (step + 1)) for path, array in parameters.items()}
        updates, state = optimizer.update(gradients, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
    return {path: parameters[path] - PARAMETERS[path] for path in parameters}


def test_a_rate_factor_scales_the_steps_of_the_parameters_that_it_names_and_the_first_match_counts():
    base = OptimizerConfig(peak_rate=1e-3, warmup_steps=1)
    rates = (RateFactor(pattern="head/.*/bias", factor=3.0), RateFactor(pattern="head/.*", factor=10.0))
    plain, scaled = _moved(base), _moved(dataclasses.replace(base, rates=rates))
    for path, factor in {"vlm/kernel": 1, "head/out/kernel": 10, "head/out/bias": 3}.items():
        # the decay of a kernel rests on its value, which a larger step has changed
        np.testing.assert_allclose(scaled[path], factor * plain[path], rtol=1e-3)


def test_a_rate_pattern_that_matches_nothing_is_refused():
    config = OptimizerConfig(rates=(RateFactor(pattern="hed/.*", factor=10.0),))
    with pytest.raises(InputError, match=r"optimizer.rates.*hed"):
        config.build(4).init(PARAMETERS)


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(InputError, match="factor=0"):
        RateFactor(pattern="head/.*", factor=0.0)
