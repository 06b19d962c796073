"""Splash, interpreted, on eight devices, each on its rows and heads: what one device gives with XLA."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.policies.batches import random_batch
from tests.toy import ToyPipeline, toy_config
from tests.training.test_training_program import program_on
from vla_jax import recipe
from vla_jax.nn import masks
from vla_jax.nn.attention import attend
from vla_jax.nn.attention_kernels import AttentionKernels
from vla_jax.parameters import split
from vla_jax.sharding import MeshConfig, batch_sharding
from vla_jax.training.attention import attention_kernels

LENGTH = 20


@pytest.fixture(scope="module")
def mesh():
    return MeshConfig(data=2, fsdp=2, tensor=2).build()


def inputs(*, batch=4, groups=2):
    keys = jax.random.split(jax.random.key(0), 3)
    arrays = [jax.random.normal(key, (batch, LENGTH, heads, 8)) for key, heads in zip(keys, (4, groups, groups))]
    valid = jnp.arange(LENGTH) >= 3 * jnp.arange(batch)[:, None]
    return arrays, valid


def gradients(kernels, arrays, valid):
    """The output, and what it says of query, key and value."""

    def total(arrays, valid):
        out = attend(*arrays, masks.causal_over_valid(valid)) * valid[..., None, None]
        return (out * jnp.cos(jnp.arange(out.size, dtype=jnp.float32).reshape(out.shape))).sum(), out

    found, out = jax.jit(kernels.around(jax.grad(total, has_aux=True)))(arrays, valid)
    return [out, *found]


def largest_difference(ours, theirs) -> float:
    return max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in zip(ours, theirs, strict=True))


def test_each_device_attends_for_its_rows_and_heads(mesh):
    arrays, valid = inputs()
    expected = gradients(AttentionKernels(choice="xla", platform="cpu"), arrays, valid)
    shared = jax.device_put((arrays, valid), batch_sharding(mesh))
    kernels = attention_kernels("splash", mesh)
    assert largest_difference(gradients(kernels, *shared), expected) < 2e-5
    wrong = gradients(kernels, arrays, jnp.roll(valid, 1, axis=0))
    assert largest_difference(wrong, expected) > 1e-2, "another row's padding"
    inside = str(jax.make_jaxpr(lambda arrays: kernels.around(attend)(*arrays))(arrays))
    assert f"f32[1,{LENGTH},2,8]" in inside, "a row and two of four heads"


@pytest.mark.parametrize(("batch", "groups", "part"), [(3, 2, (3, 2)), (4, 1, (1, 4))])
def test_what_does_not_divide_is_computed_on_all_devices(mesh, batch, groups, part):
    arrays, _ = inputs(batch=batch, groups=groups)
    kernels = attention_kernels("splash", mesh)
    inside = str(jax.make_jaxpr(lambda arrays: kernels.around(attend)(*arrays))(arrays))
    assert f"f32[{part[0]},{LENGTH},{part[1]},8]" in inside


def test_a_training_program_takes_the_kernel_of_its_configuration():
    """A whole step of training, traced and not compiled: that its numbers are right is said above and below."""
    config = toy_config(num_steps=2)
    for choice, is_splash in (("auto", False), ("splash", True)):
        program = program_on(dataclasses.replace(config, attention=choice), (2, 2, 2))
        batch = ToyPipeline(config.seed, config.batch_size).batch(0)
        traced = str(program.step.trace(program.state, program.frozen, batch).jaxpr)
        assert ("pallas_call" in traced) == is_splash


@pytest.mark.all_presets
@pytest.mark.parametrize("name", ["openvla", "openvla_oft", "qwenvla_oft", "dfa_vla", "deepvision_vla"])
def test_policies_have_the_same_loss_and_gradients_by_splash(name):
    """What splash gives in rows of padding, which XLA gives otherwise, reaches no loss."""
    config = recipe.load(f"configs/{name}_oxe.py:tiny").policy
    structure, parameters = split(config.build(nnx.Rngs(0)))
    batch = random_batch(config.data_requirements(), size=4)

    def loss(parameters, batch):
        return structure.merge(parameters).loss(batch, key=None).total

    by_xla, by_splash = (
        jax.jit(AttentionKernels(choice=choice, platform="cpu").around(jax.value_and_grad(loss)))(parameters, batch)
        for choice in ("xla", "splash")
    )
    np.testing.assert_allclose(by_splash[0], by_xla[0], rtol=1e-5)
    scale = max(float(jnp.abs(gradient).max()) for gradient in by_xla[1].values())
    for path, gradient in by_xla[1].items():
        np.testing.assert_allclose(by_splash[1][path], gradient, atol=2e-5 * scale, err_msg=path)
