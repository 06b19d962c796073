"""Convolutions against torch's: where zeros stand, and which way round a transposed kernel lies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_jax.nn.convolution import Doubling, StandardizedConvolution, padded_convolution

torch = pytest.importorskip("torch")
functional = torch.nn.functional


def tensor(array):
    return torch.from_numpy(np.array(array))


@pytest.mark.parametrize(("size", "stride", "length"), [(5, 1, 8), (3, 2, 8), (3, 2, 7), (1, 1, 4)])
def test_a_padded_convolution_of_a_sequence_is_torch_s(size, stride, length):
    ours = padded_convolution(3, 4, size, stride=stride, axes=1, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, length, 3))
    weight = tensor(ours.kernel[...]).permute(2, 1, 0)
    expected = functional.conv1d(tensor(x).transpose(1, 2), weight, stride=stride, padding=size // 2)
    np.testing.assert_allclose(ours(x), expected.transpose(1, 2), atol=1e-5)


@pytest.mark.parametrize(("size", "stride"), [(7, 2), (3, 2)])
def test_a_padded_convolution_of_a_map_is_torch_s_where_ours_by_halves_is_not(size, stride):
    ours = padded_convolution(3, 4, size, stride=stride, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 12, 8, 3))
    weight = tensor(ours.kernel[...]).permute(3, 2, 0, 1)
    expected = functional.conv2d(tensor(x).permute(0, 3, 1, 2), weight, stride=stride, padding=size // 2)
    np.testing.assert_allclose(ours(x), expected.permute(0, 2, 3, 1), atol=1e-5)


def test_doubling_is_torch_s_transposed_convolution():
    ours = Doubling(3, rngs=nnx.Rngs(0))
    ours.bias[...] = jnp.array([0.1, 0.2, 0.3])
    x = jax.random.normal(jax.random.key(0), (2, 5, 3))
    weight = tensor(ours.kernel[...]).permute(1, 2, 0)
    bias, given = tensor(ours.bias[...]), tensor(x).transpose(1, 2)
    expected = functional.conv_transpose1d(given, weight, bias, stride=2, padding=1).transpose(1, 2)
    assert expected.shape == (2, 10, 3)
    np.testing.assert_allclose(ours(x), expected, atol=1e-5)
    turned = functional.conv_transpose1d(given, weight.flip(2), bias, stride=2, padding=1).transpose(1, 2)
    assert np.abs(ours(x) - turned.numpy()).max() > 0.1


def test_a_standardised_kernel_knows_neither_mean_nor_scale():
    ours = StandardizedConvolution(3, 4, 3, stride=2, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
    before = ours(x)
    ours.kernel[...] = 5.0 * ours.kernel[...] + 2.0
    np.testing.assert_allclose(ours(x), before, atol=1e-3)
    assert before.shape == (1, 4, 4, 4)
