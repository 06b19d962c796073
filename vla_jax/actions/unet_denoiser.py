"""Diffusion Policy's denoiser: a U-Net over the steps of a chunk, its channels modulated by step and read-out.

Axes: r any leading axes (b: all of them as one), h horizon, a action, d width of the read-out, i in, o out,
c condition, f features of the step.
Source: Diffusion Policy (arXiv 2303.04137), section 3.1 and published `conditional_unet1d.py`: convolutions of 5 with
group norm of 8 groups and Mish, twice a block, FiLM behind the first (scale and shift, scale not around 1), widths 512,
1024, 2048, the observation as a global condition.
Differs: a chunk whose length the network cannot halve often enough is filled up with zeros, and cut again.
"""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from vla_jax.actions.diffusion import Denoiser, DenoiserConfig
from vla_jax.nn.convolution import Doubling, padded_convolution
from vla_jax.nn.linear import linear
from vla_jax.nn.norms import group_norm
from vla_jax.types import ActionSpace


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnetDenoiserConfig(DenoiserConfig):
    widths: tuple[int, ...] = (512, 1024, 2048)
    kernel_size: int = 5
    num_groups: int = 8
    time_width: int = 128

    def build(self, condition_width: int, action_space: ActionSpace, rngs: nnx.Rngs) -> "UnetDenoiser":
        return UnetDenoiser(self, condition_width, action_space, rngs=rngs)


class ConvolutionBlock(nnx.Module):
    def __init__(self, in_width: int, out_width: int, config: UnetDenoiserConfig, *, rngs: nnx.Rngs):
        self.convolution = padded_convolution(in_width, out_width, config.kernel_size, axes=1, rngs=rngs)
        self.norm = group_norm(out_width, config.num_groups, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: Float[Array, "b h i"]) -> Float[Array, "b h o"]:
        return jax.nn.mish(self.norm(self.convolution(x)))


class ModulatedBlock(nnx.Module):
    def __init__(
        self, in_width: int, out_width: int, condition_width: int, config: UnetDenoiserConfig, *, rngs: nnx.Rngs
    ):
        self.first = ConvolutionBlock(in_width, out_width, config, rngs=rngs)
        self.second = ConvolutionBlock(out_width, out_width, config, rngs=rngs)
        self.modulation = linear(condition_width, 2 * out_width, ("embed", "feature"), rngs=rngs)
        is_same = in_width == out_width
        self.shortcut = None if is_same else padded_convolution(in_width, out_width, 1, axes=1, rngs=rngs)

    def __call__(self, x: Float[Array, "b h i"], condition: Float[Array, "b c"]) -> Float[Array, "b h o"]:
        scale, shift = jnp.split(self.modulation(jax.nn.mish(condition))[:, None], 2, axis=-1)
        found = self.second(scale * self.first(x) + shift)
        return found + (x if self.shortcut is None else self.shortcut(x))


class Level(nnx.Module):
    """Two blocks, and what changes the length behind them; the last level of a way leaves it."""

    def __init__(self, first: ModulatedBlock, second: ModulatedBlock, resize: nnx.Module | None):
        self.first, self.second, self.resize = first, second, resize


class UnetDenoiser(Denoiser):
    def __init__(self, config: UnetDenoiserConfig, condition_width: int, action_space: ActionSpace, *, rngs: nnx.Rngs):
        self.time_width = config.time_width
        self.multiple = 2 ** (len(config.widths) - 1)
        action, width, widths = action_space.action_width, config.time_width, config.widths
        self.time_up = linear(width, 4 * width, ("embed", "mlp"), rngs=rngs)
        self.time_down = linear(4 * width, width, ("mlp", "embed"), rngs=rngs)

        def block(in_width: int, out_width: int) -> ModulatedBlock:
            return ModulatedBlock(in_width, out_width, width + condition_width, config, rngs=rngs)

        def halving(width: int) -> nnx.Module:
            return padded_convolution(width, width, 3, stride=2, axes=1, rngs=rngs)

        pairs = list(itertools.pairwise((action, *widths)))
        last = len(pairs) - 1
        self.down = nnx.List(
            [Level(block(i, o), block(o, o), None if n == last else halving(o)) for n, (i, o) in enumerate(pairs)]
        )
        self.middle = nnx.List([block(widths[-1], widths[-1]) for _ in range(2)])
        self.up = nnx.List(
            [Level(block(2 * o, i), block(i, i), Doubling(i, rngs=rngs)) for i, o in reversed(pairs[1:])]
        )
        self.out_block = ConvolutionBlock(widths[0], widths[0], config, rngs=rngs)
        self.out = padded_convolution(widths[0], action, 1, axes=1, rngs=rngs)

    def __call__(
        self, noisy: Float[Array, "*r h a"], time: Int[Array, "*r"], condition: Float[Array, "*r d"]
    ) -> Float[Array, "*r h a"]:
        dtype, length = condition.dtype, noisy.shape[-2]
        flat = noisy.reshape(-1, *noisy.shape[-2:]).astype(dtype)
        x = jnp.pad(flat, ((0, 0), (0, -length % self.multiple), (0, 0)))
        features = self.time_features(time.reshape(-1)).astype(dtype)
        features = self.time_down(jax.nn.mish(self.time_up(features)))
        context = jnp.concatenate([features, condition.reshape(len(features), -1)], axis=-1)
        kept = []
        for level in self.down:
            x = level.second(level.first(x, context), context)
            kept.append(x)
            x = x if level.resize is None else level.resize(x)
        for middle in self.middle:
            x = middle(x, context)
        for level in self.up:
            x = jnp.concatenate([x, kept.pop()], axis=-1)
            x = level.resize(level.second(level.first(x, context), context))
        x = self.out(self.out_block(x))
        return x[:, :length].reshape(noisy.shape).astype(jnp.float32)

    def time_features(self, time: Int[Array, "b"]) -> Float[Array, "b f"]:
        """Sines, then cosines."""
        half = self.time_width // 2
        frequencies = np.exp(np.arange(half) * (-math.log(10_000.0) / (half - 1))).astype(np.float32)
        angles = time[:, None].astype(jnp.float32) * frequencies
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
