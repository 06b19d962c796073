"""The step's options: micro-batches, bad steps, moments, and what it costs the host."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.toy import ToyConfig, ToyPipeline, toy_config
from vla_jax.sharding import MeshConfig, batch_sharding
from vla_jax.training.bad_steps import SkipConfig, judge
from vla_jax.training.program import build_program
from vla_jax.training.state import new_state
from vla_jax.training.step import Step
from vla_jax.types import InputError

BATCH = 16


@functools.cache
def program_of(devices: int = 1, **changes):
    config = toy_config(
        batch_size=BATCH, policy=ToyConfig(dropout_rate=0.0, num_layers=1), augmentation=None, ema_decay=None, **changes
    )
    return build_program(config, MeshConfig(data=1, fsdp=devices).build(jax.devices()[:devices]))


def start(program):
    state, frozen = program.initial({})
    return state, program.place_frozen(frozen)


def batch_of(program, step: int = 0, **changes):
    batch = ToyPipeline(0, BATCH).batch(step)
    return jax.device_put(dataclasses.replace(batch, **changes), batch_sharding(program.mesh))


@functools.cache
def gradients_function(devices: int = 1, micro_batches: int = 1):
    program = program_of(devices, micro_batches=micro_batches)
    step = Step(program.config, program.structure, program.config.optimizer.build(9), program.shardings)
    state, frozen = start(program)
    compiled = jax.jit(step.gradients)
    return lambda batch: compiled(state.parameters, frozen, batch, jax.random.key(0))


def gradients_of(batch, devices: int = 1, micro_batches: int = 1):
    return gradients_function(devices, micro_batches)(batch)


# ---- micro-batches


@pytest.fixture(scope="module")
def whole():
    return gradients_of(batch_of(program_of()))


@pytest.mark.parametrize(("parts", "devices"), [(4, 1), (2, 4)])
def test_micro_batches_weighted_by_their_targets_give_the_gradient_of_the_whole_batch(whole, parts, devices):
    program = program_of(devices, micro_batches=parts)
    gradients, losses = gradients_of(batch_of(program), devices, parts)
    np.testing.assert_allclose(losses.total, whole[1].total, rtol=1e-6)
    np.testing.assert_allclose(losses.terms["l1"], whole[1].terms["l1"], rtol=1e-6)
    assert float(losses.weight) == float(whole[1].weight)
    largest = max(np.abs(array).max() for array in whole[0].values())
    for path, array in whole[0].items():
        np.testing.assert_allclose(gradients[path], array, rtol=0, atol=1e-6 * largest, err_msg=path)
        assert gradients[path].sharding.is_equivalent_to(program.shardings[path], array.ndim)


def test_a_mean_of_the_parts_means_would_be_another_gradient(whole):
    """The wrong twin: parts of this batch have unequal numbers of targets."""
    batch = ToyPipeline(0, BATCH).batch(0)
    parts = [gradients_of(jax.tree.map(lambda leaf, i=i: leaf[i::4], batch)) for i in range(4)]
    assert len({float(losses.weight) for _, losses in parts}) > 1
    mean = np.mean([part["head/kernel"] for part, _ in parts], axis=0)
    assert np.abs(mean - whole[0]["head/kernel"]).max() > 1e-4 * np.abs(mean).max()


def test_a_part_without_targets_counts_for_nothing():
    """Rows 0, 4, 8 and 12 are the first of four parts."""
    program = program_of()
    mask = np.array(ToyPipeline(0, BATCH).batch(0).action_mask)
    mask[::4] = False
    none = np.zeros_like(mask)
    gradients, losses = gradients_of(batch_of(program, action_mask=jnp.asarray(mask)), micro_batches=4)
    single, _ = gradients_of(batch_of(program, action_mask=jnp.asarray(mask)))
    np.testing.assert_allclose(gradients["head/kernel"], single["head/kernel"], atol=1e-6)
    gradients, losses = gradients_of(batch_of(program, action_mask=jnp.asarray(none)), micro_batches=4)
    assert losses.total == 0
    assert all(np.all(array == 0) for array in gradients.values())


def test_a_batch_that_does_not_divide_into_parts_on_every_device_is_refused():
    with pytest.raises(InputError, match=r"batch_size=16 .* 4 devices in 8 micro_batches"):
        program_of(4, micro_batches=8)


# ---- bad steps

SKIP = SkipConfig(memory=3, spike_deviations=6.0, most_in_a_row=4)


def steps(program, batches):
    state, frozen = start(program)
    history = []
    for batch in batches:
        state, metrics = program.step(state, frozen, batch)
        history.append(
            (jax.tree.map(np.array, (state.parameters, state.optimizer, state.ema)), jax.device_get(metrics))
        )
    return state, history


def test_a_bad_batch_leaves_no_trace_but_its_count():
    """NaN in the rows of one device, an infinite loss, and a spike: all devices leave the same steps out."""
    program = program_of(4, skip=SKIP)
    clean = [batch_of(program, step) for step in range(6)]
    action = np.array(clean[0].action)
    hurt = np.array(action)
    hurt[-1] = np.nan
    bad = [hurt, np.full_like(action, np.inf), 100 * np.abs(action) + 100]
    bad = [batch_of(program, action=jnp.asarray(array)) for array in bad]
    state, history = steps(program, [*clean[:4], *bad, *clean[4:]])
    counts = [int(metrics["num_skipped"]) for _, metrics in history]
    assert counts == [0, 0, 0, 0, 1, 2, 3, 3, 3]
    assert all(metrics["bad_step"] == -1 for _, metrics in history)
    for (kept, _), (before, _) in zip(history[4:7], history[3:6], strict=True):
        jax.tree.map(np.testing.assert_array_equal, kept, before)
    assert not np.array_equal(history[7][0][0]["head/kernel"], history[6][0][0]["head/kernel"])
    _, undisturbed = steps(program, clean)
    for (ours, metrics), (theirs, expected) in zip(history[7:], undisturbed[4:], strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        assert metrics["learning_rate"] == expected["learning_rate"]
    for shard in state.watch.num_skipped.addressable_shards:
        assert shard.data == 3


def test_as_many_bad_steps_in_a_row_as_allowed_stop_the_run():
    program = program_of(4, skip=SKIP)
    good, bad = batch_of(program), batch_of(program, action=jnp.full_like(batch_of(program).action, jnp.nan))
    _, history = steps(program, [bad, good, bad, bad, bad, bad, good])
    assert [int(metrics["bad_step"]) for _, metrics in history] == [-1, -1, -1, -1, -1, 6, 6]


def test_without_the_option_anything_that_is_not_finite_stops_the_run_at_once():
    program = program_of(4)
    bad = batch_of(program, action=jnp.full_like(batch_of(program).action, jnp.nan))
    _, history = steps(program, [batch_of(program), bad])
    assert [int(metrics["bad_step"]) for _, metrics in history] == [-1, 2]
    assert "num_skipped" not in history[0][1]


def test_a_spike_is_told_from_losses_that_fall_and_scatter():
    config = SkipConfig(memory=20, spike_deviations=8.0)
    watch = new_state({}, optax.identity(), ema=False, seed=0).watch
    random, skipped = np.random.default_rng(0), []
    decide = jax.jit(functools.partial(judge, config))
    for step in range(300):
        loss = 1 + 4 * np.exp(-step / 30) + 0.1 * random.normal() + (100 if step in (5, 200) else 0)
        skips, _, watch = decide(watch, jnp.float32(loss), jnp.float32(1))
        skipped += [step] if skips else []
    assert skipped == [200]  # before 20 steps nothing is known
    _, _, blind = judge(SkipConfig(spike_deviations=None), watch, jnp.float32(1e6), jnp.float32(1))
    assert blind.num_kept == watch.num_kept + 1


@pytest.mark.parametrize("changes", [{"memory": 1}, {"most_in_a_row": 0}, {"spike_deviations": -1.0}])
def test_senseless_limits_are_refused(changes):
    with pytest.raises(InputError, match="skip"):
        SkipConfig(**changes)


# ---- moments


def test_the_first_moment_may_be_bfloat16():
    program = program_of(4, optimizer=dataclasses.replace(toy_config().optimizer, moment_dtype="bfloat16"))
    _, history = steps(program, [batch_of(program, step) for step in range(8)])
    reference = program_of(4)
    _, expected = steps(reference, [batch_of(reference, step) for step in range(8)])
    adam = next(part for part in jax.tree.leaves(program.state.optimizer, is_leaf=_is_adam) if _is_adam(part))
    assert {leaf.dtype for leaf in adam.mu.values()} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in adam.nu.values()} == {jnp.dtype("float32")}
    ours, theirs = ([float(metrics["loss"]) for _, metrics in h] for h in (history, expected))
    np.testing.assert_allclose(ours, theirs, rtol=0.02)
    assert ours != theirs


def test_a_second_moment_in_bfloat16_would_stand_still():
    """Why there is no such option: at beta2 = 0.999 it does not move from 1 to 2."""

    def after_many_steps(dtype):
        def step(_, moment):
            return (0.999 * moment.astype(jnp.float32) + 0.001 * 2.0).astype(dtype)

        return float(jax.lax.fori_loop(0, 1000, step, jnp.ones((), dtype)))

    assert after_many_steps(jnp.bfloat16) == 1.0
    np.testing.assert_allclose(after_many_steps(jnp.float32), 2 - 0.999**1000, rtol=1e-3)


def _is_adam(part):
    return isinstance(part, optax.ScaleByAdamState)


# ---- the host


def test_a_step_moves_nothing_between_host_and_devices_and_writes_over_its_state():
    program = program_of(4)
    state, frozen = start(program)
    batch = batch_of(program)
    with jax.transfer_guard("disallow"):
        after, _ = program.step(state, frozen, batch)
        after, _ = program.step(after, frozen, batch)
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            program.step(after, frozen, ToyPipeline(0, BATCH).batch(0))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.parameters, state.optimizer)))
    compiled = program.step.lower(program.state, program.frozen, batch).compile().memory_analysis()
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves((after.parameters, after.optimizer)))
    assert compiled.alias_size_in_bytes >= held
