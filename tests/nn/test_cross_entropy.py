import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vla_jax.nn.cross_entropy import cross_entropy, mean_cross_entropy
from vla_jax.sharding import MeshConfig, batch_sharding, replicated

VOCAB = 7


@pytest.fixture(scope="module")
def case():
    """Hidden states, targets, mask, and a head's kernel; targets outside the mask mean nothing."""
    hidden, kernel = (
        jax.random.normal(jax.random.key(seed), shape) for seed, shape in ((0, (3, 5, 4)), (1, (4, VOCAB)))
    )
    mask = jax.random.bernoulli(jax.random.key(2), 0.6, (3, 5))
    targets = jnp.where(mask, jax.random.randint(jax.random.key(3), (3, 5), 0, VOCAB), -100)
    return hidden, targets, mask, kernel


def loss(case, kernel, **options):
    hidden, targets, mask, _ = case
    return mean_cross_entropy(hidden, targets, mask, head=lambda x: x @ kernel, **options)


def test_it_is_torch_cross_entropy_with_its_gradient(case):
    torch = pytest.importorskip("torch")
    hidden, targets, _, kernel = case
    weight = torch.tensor(np.asarray(kernel), requires_grad=True)
    logits = torch.tensor(np.asarray(hidden)).reshape(-1, 4) @ weight
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(np.asarray(targets)).reshape(-1).long())
    expected.backward()

    value, gradient = jax.value_and_grad(lambda kernel: loss(case, kernel))(kernel)

    np.testing.assert_allclose(value, expected.item(), rtol=1e-6)
    np.testing.assert_allclose(gradient, weight.grad.numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("chunk_length", [1, 2, 5, 99])
def test_chunks_change_nothing_but_memory(case, chunk_length):
    kernel = case[3]
    whole = jax.value_and_grad(lambda kernel: loss(case, kernel))(kernel)
    parts = jax.value_and_grad(lambda kernel: loss(case, kernel, chunk_length=chunk_length))(kernel)
    for ours, expected in zip(parts, whole):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-7)


def test_chunks_never_hold_all_logits():
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in (((4096, 8), jnp.float32), ((4096,), jnp.int32))]
    kernel = jax.ShapeDtypeStruct((8, 1000), jnp.float32)

    def memory(chunk_length):
        def total(hidden, targets, kernel):
            mask = jnp.ones(targets.shape, bool)
            return mean_cross_entropy(hidden, targets, mask, head=lambda x: x @ kernel, chunk_length=chunk_length)

        compiled = jax.jit(jax.grad(total, argnums=(0, 2))).lower(*shapes, kernel).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    all_logits = 4096 * 1000 * 4
    assert memory(None) >= all_logits
    assert memory(128) < all_logits / 8


def test_on_a_mesh_each_device_keeps_to_its_own_rows():
    mesh, rows = MeshConfig(data=8).build(), (8, 32)
    shared, everywhere = batch_sharding(mesh), replicated(mesh)

    def total(hidden, targets, mask, kernel):
        return mean_cross_entropy(hidden, targets, mask, head=lambda x: x @ kernel, chunk_length=4)

    shapes = [((*rows, 8), jnp.float32), (rows, jnp.int32), (rows, jnp.bool), ((8, 50), jnp.float32)]
    step = jax.jit(jax.grad(total, argnums=3), in_shardings=(shared, shared, shared, everywhere))
    program = step.lower(*(jax.ShapeDtypeStruct(*shape) for shape in shapes)).compile().as_text()
    assert "all-reduce" in program
    assert "all-gather" not in program


def test_in_bfloat16_it_sums_in_float32_and_an_empty_mask_gives_zero(case):
    hidden, targets, mask, kernel = case
    logits = (hidden @ kernel).astype(jnp.bfloat16)
    exact = cross_entropy(logits.astype(jnp.float32), jnp.maximum(targets, 0))
    np.testing.assert_array_equal(cross_entropy(logits, jnp.maximum(targets, 0)), exact)
    assert loss((hidden, targets, mask & False, kernel), kernel) == 0
    assert np.isnan(cross_entropy(logits, jnp.where(mask, VOCAB, -1))).all()
