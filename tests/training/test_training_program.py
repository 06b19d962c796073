"""The jitted step: the same program on every mesh, frozen parameters, precision, moving average, remat."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from tests.toy import ToyConfig, ToyPipeline, toy_config
from vla_jax import sharding
from vla_jax.sharding import MeshConfig
from vla_jax.training.program import build_program
from vla_jax.training.step import moving_average

MESHES = {"data8": (8, 1, 1), "data2_fsdp4": (2, 4, 1), "data2_fsdp2_tensor2": (2, 2, 2)}


def program_on(config, sizes):
    data, fsdp, tensor = sizes
    mesh = MeshConfig(data=data, fsdp=fsdp, tensor=tensor).build(jax.devices()[: data * fsdp * tensor])
    return build_program(config, mesh)


def run(program, num_steps):
    config = program.config
    state, frozen = program.initial({})
    frozen = program.place_frozen(frozen)
    pipeline, where, history = ToyPipeline(config.seed, config.batch_size), sharding.batch_sharding(program.mesh), []
    for step in range(num_steps):
        state, metrics = program.step(state, frozen, jax.device_put(pipeline.batch(step), where))
        history.append(jax.device_get(metrics))
    return state, frozen, history


@pytest.fixture(scope="module")
def config():
    return toy_config(num_steps=50)


@pytest.fixture(scope="module")
def single(config):
    program = program_on(config, (1, 1, 1))
    return program, *run(program, 50)


@pytest.mark.parametrize("name", MESHES)
def test_eight_devices_give_the_losses_of_one(config, single, name):
    program = program_on(config, MESHES[name])
    state, _, history = run(program, 50)
    expected = [metrics["loss"] for metrics in single[3]]
    np.testing.assert_allclose([metrics["loss"] for metrics in history], expected, rtol=1e-5)
    for ours, theirs in zip(history, single[3]):
        np.testing.assert_array_equal(ours["sample_ids"], theirs["sample_ids"])
    for path, array in single[1].parameters.items():
        if not path.endswith("attention/key/bias"):  # its true gradient is zero: AdamW makes steps of the rounding
            np.testing.assert_allclose(state.parameters[path], array, atol=2e-4)


def test_all_that_belongs_to_a_parameter_is_sharded_like_it(config):
    program = program_on(config, MESHES["data2_fsdp2_tensor2"])
    state, _ = program.initial({})
    kernel = next(path for path in state.parameters if path.endswith("mlp/up/kernel"))
    expected = PartitionSpec(None, "fsdp", "tensor")
    adam = next(part for part in jax.tree.leaves(state.optimizer, is_leaf=_is_adam) if _is_adam(part))
    for tree in (state.parameters, state.ema, adam.mu, adam.nu):
        assert tree[kernel].sharding.spec == expected
        assert tree[kernel].addressable_shards[0].data.size * 4 == tree[kernel].size
    assert state.step.sharding.is_fully_replicated


def _is_adam(part):
    return isinstance(part, optax.ScaleByAdamState)


def test_a_mesh_that_does_not_divide_the_batch_is_refused(config):
    with pytest.raises(ValueError, match="batch_size=6 does not divide"):
        program_on(dataclasses.replace(config, batch_size=6), (4, 1, 1))


def test_frozen_parameters_have_no_state_and_do_not_change(single):
    program, state, frozen, _ = single
    assert set(frozen) == set(program.frozen) == {"encoder/kernel", "encoder/bias"}
    assert not set(frozen) & (state.parameters.keys() | state.ema.keys())
    paths = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.optimizer)}
    assert not any("encoder" in path for path in paths)
    before = program.initial({})[1]
    for path in frozen:
        np.testing.assert_array_equal(frozen[path], before[path])


def test_every_trainable_parameter_moves(single):
    program, state, _, _ = single
    before = program.initial({})[0].parameters
    assert [path for path in before if np.array_equal(before[path], state.parameters[path])] == []


def test_given_parameters_replace_the_random_ones(config):
    program = program_on(config, (2, 1, 1))
    kernel = np.full((program.structure.shapes()["head/kernel"].shape), 0.25, np.float16)
    encoder = np.full((program.structure.shapes()["encoder/bias"].shape), 0.5, np.float32)
    state, frozen = program.initial({"head/kernel": kernel, "encoder/bias": jnp.asarray(encoder)})
    random, _ = program.initial({})
    assert state.parameters["head/kernel"].dtype == jnp.float32
    np.testing.assert_array_equal(state.parameters["head/kernel"], kernel)
    np.testing.assert_array_equal(state.ema["head/kernel"], kernel)
    np.testing.assert_array_equal(frozen["encoder/bias"], encoder)
    np.testing.assert_array_equal(state.parameters["head/bias"], random.parameters["head/bias"])


def weight_products(jaxpr):
    """Outputs of the matrix products without batch dimensions: those with a weight, forward and backward.

    Products of activations (attention's logits) may accumulate in float32.
    """
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general" and not equation.params["dimension_numbers"][1][0]:
            yield equation.outvars[0].aval
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from weight_products(inner)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_masters(config, single):
    program = program_on(dataclasses.replace(config, compute_dtype="bfloat16"), (1, 1, 1))
    assert {shape.dtype for shape in program.frozen.values()} == {jnp.dtype(jnp.bfloat16)}
    batch = ToyPipeline(config.seed, config.batch_size).batch(0)
    products = list(weight_products(jax.make_jaxpr(program.step)(program.state, program.frozen, batch).jaxpr))
    assert len(products) > 20
    assert {output.dtype for output in products} == {jnp.dtype(jnp.bfloat16)}

    state, _, history = run(program, 50)
    leaves = jax.tree.leaves((state.parameters, state.ema, state.optimizer))
    assert {leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)} == {jnp.dtype("float32")}
    assert all(metrics["loss"].dtype == np.float32 for metrics in history)
    ours, theirs = (np.array([metrics["loss"] for metrics in h]) for h in (history, single[3]))
    np.testing.assert_allclose(ours, theirs, rtol=0.05)
    assert not np.array_equal(ours, theirs)


def test_scan_with_remat_gives_the_gradients_of_scan_without(config):
    def after_two_steps(remat):
        policy = ToyConfig(remat=remat, num_layers=3)
        state, _, history = run(program_on(dataclasses.replace(config, policy=policy), (1, 1, 1)), 2)
        first = next(part for part in jax.tree.leaves(state.optimizer, is_leaf=_is_adam) if _is_adam(part)).mu
        return first, [metrics["grad_norm"] for metrics in history]

    (ours, our_norms), (theirs, their_norms) = after_two_steps("full"), after_two_steps("none")
    np.testing.assert_allclose(our_norms, their_norms, rtol=1e-6)
    for path in theirs:  # Adam's first moment: a weighted sum of the two gradients
        np.testing.assert_allclose(ours[path], theirs[path], rtol=1e-4, atol=1e-7)


def test_the_moving_average_matches_numpy_over_a_run(config):
    program = program_on(config, (1, 1, 1))
    state, frozen = program.initial({})
    frozen, expected = program.place_frozen(frozen), {path: np.array(a) for path, a in state.ema.items()}
    for step in range(12):
        state, metrics = program.step(state, frozen, ToyPipeline(0, config.batch_size).batch(step))
        decay = min(0.9, (1 + step) / (10 + step))
        expected = {path: decay * expected[path] + (1 - decay) * np.array(state.parameters[path]) for path in expected}
    for path, array in expected.items():
        np.testing.assert_allclose(state.ema[path], array, rtol=1e-4, atol=1e-6)
    norm = np.sqrt(sum((array.astype(np.float64) ** 2).sum() for array in expected.values()))
    np.testing.assert_allclose(metrics["ema_norm"], norm, rtol=1e-4)


def test_the_moving_average_forgets_the_start_of_a_short_run():
    average = {"x": jnp.ones(())}
    for step in range(20):
        average = moving_average(average, {"x": jnp.zeros(())}, jnp.int32(step), 0.999)
    assert float(average["x"]) < 1e-3
    late = moving_average({"x": jnp.ones(())}, {"x": jnp.zeros(())}, jnp.int32(10**6), 0.999)
    np.testing.assert_allclose(late["x"], 0.999, rtol=1e-6)


def test_without_ema_there_is_none(config):
    program = program_on(dataclasses.replace(config, ema_decay=None), (1, 1, 1))
    state, _, history = run(program, 1)
    assert state.ema is None
    assert "ema_norm" not in history[0]


def test_dropout_and_augmentation_follow_the_carried_key(config):
    program = program_on(config, (1, 1, 1))
    batch = ToyPipeline(0, config.batch_size).batch(0)

    def loss(seed):
        state, frozen = program.initial({})
        state = state.replace(key=jax.random.key(seed))
        return float(program.step(state, program.place_frozen(frozen), batch)[1]["loss"])

    assert loss(1) == loss(1)
    assert loss(1) != loss(2)
