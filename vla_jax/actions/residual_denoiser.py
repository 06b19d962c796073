"""Octo's denoiser: Fourier features of the step, beside the read-out and the noisy chunk, through a residual MLP.

Axes: r any leading axes, h horizon, a action, d width of the read-out, f width of the step's features, e hidden width.
Source: Octo (arXiv 2405.12213), published `octo/model/components/diffusion.py`, after IDQL's score network: blocks
x + linear(swish(linear(norm(x)))) four times as wide inside; learned frequencies.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from vla_jax.actions.diffusion import Denoiser, DenoiserConfig
from vla_jax.nn.linear import linear
from vla_jax.nn.mlp import MlpConfig
from vla_jax.nn.norms import layer_norm
from vla_jax.types import ActionSpace


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidualDenoiserConfig(DenoiserConfig):
    time_width: int = 32
    hidden_width: int = 256
    num_blocks: int = 3

    def build(self, condition_width: int, action_space: ActionSpace, rngs: nnx.Rngs) -> "ResidualDenoiser":
        return ResidualDenoiser(self, condition_width, action_space, rngs=rngs)


class ResidualBlock(nnx.Module):
    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm = layer_norm(width, epsilon=1e-6, rngs=rngs)
        self.mlp = MlpConfig(hidden_width=4 * width, activation="silu").build(width, rngs)

    def __call__(self, x: Float[Array, "*r e"]) -> Float[Array, "*r e"]:
        return x + self.mlp(self.norm(x))


class ResidualDenoiser(Denoiser):
    def __init__(
        self, config: ResidualDenoiserConfig, condition_width: int, action_space: ActionSpace, *, rngs: nnx.Rngs
    ):
        width, chunk = config.time_width, action_space.horizon * action_space.action_width
        self.frequencies = nnx.Param(0.2 * jax.random.normal(rngs.params(), (width // 2,)), logical_axes=("feature",))
        self.time = MlpConfig(hidden_width=2 * width, activation="silu").build(width, rngs)
        self.into = linear(width + condition_width + chunk, config.hidden_width, ("embed", "mlp"), rngs=rngs)
        self.blocks = nnx.List([ResidualBlock(config.hidden_width, rngs=rngs) for _ in range(config.num_blocks)])
        self.out = linear(config.hidden_width, chunk, ("embed", None), rngs=rngs)

    def __call__(
        self, noisy: Float[Array, "*r h a"], time: Int[Array, "*r"], condition: Float[Array, "*r d"]
    ) -> Float[Array, "*r h a"]:
        # float32: the angles are many turns. Turns first, then frequencies: PyTorch rounds them alike.
        turns = jnp.float32(2 * np.pi) * time.astype(jnp.float32)
        angles = turns[..., None] * self.frequencies[...].astype(jnp.float32)
        features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1).astype(condition.dtype)
        flat = noisy.reshape(*noisy.shape[:-2], -1).astype(condition.dtype)
        x = self.into(jnp.concatenate([self.time(features), condition, flat], axis=-1))
        for block in self.blocks:
            x = block(x)
        return self.out(jax.nn.silu(x)).reshape(noisy.shape).astype(jnp.float32)
