"""Actions out of noise: a denoiser is taught which noise was added to them (DDPM), and takes it out step by step.

Axes: n draws, b batch, w window, h horizon, a action, t steps of diffusion, d width of a read-out.
Source: Ho et al. 2020 (arXiv 2006.11239), Song et al. 2021 (DDIM, 2010.02502), cosine schedule of Nichol and Dhariwal
2021 (2102.09672); used as Octo (2405.12213, `action_heads.py`, `diffusion.py`) and Diffusion Policy (2303.04137) do.

With abar_t the product of 1 - beta_i up to t: noisy = sqrt(abar_t) action + sqrt(1 - abar_t) noise.
`ddpm` goes through all steps and clips what each gives (Octo); `ddim` goes through some, evenly spaced from 0, without
noise, and clips the clean actions that each predicts (Diffusion Policy on robots).
Differs: masked targets are zero before noise is added, so that they change nothing (Octo: whatever stands there).
Without a key nothing is drawn: sampling begins at zero and adds nothing, the loss draws with a fixed key.
"""

import abc
import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from vla_jax.types import ActionSpace, InputError, Losses, PolicyContext


def betas(num_steps: int) -> Float[np.ndarray, "t"]:
    """The cosine schedule, offset 0.008, capped at 0.999 (diffusers' `squaredcos_cap_v2`)."""
    times = np.arange(num_steps + 1) / num_steps
    kept = np.cos((times + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - kept[1:] / kept[:-1], 0.999)


class Denoiser(nnx.Module):
    def __call__(
        self, noisy: Float[Array, "*r h a"], time: Int[Array, "*r"], condition: Float[Array, "*r d"]
    ) -> Float[Array, "*r h a"]:
        """The noise in `noisy`, float32."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenoiserConfig(abc.ABC):
    @abc.abstractmethod
    def build(self, condition_width: int, action_space: ActionSpace, rngs: nnx.Rngs) -> Denoiser: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    denoiser: DenoiserConfig
    num_steps: int = 20
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    num_sampling_steps: int | None = None
    """Of `ddim`; None: all."""
    limit: float = 5.0
    """Actions are clipped to +- this, in training and in sampling."""
    num_draws: int = 1
    """Of noise for each read-out in training; the encoders run once."""
    summed: bool = True
    """True: the loss is a sum over the dimensions of an action (Octo), else a mean."""

    def __post_init__(self):
        if self.num_steps < 1 or self.num_draws < 1:
            raise InputError(f"diffusion: num_steps={self.num_steps}, num_draws={self.num_draws}: at least 1 expected")
        if self.sampler == "ddpm" and self.num_sampling_steps not in (None, self.num_steps):
            raise InputError(f"diffusion: sampler ddpm takes all {self.num_steps} steps; leave num_sampling_steps out")
        if not 1 <= (self.num_sampling_steps or 1) <= self.num_steps:
            raise InputError(f"diffusion: num_sampling_steps={self.num_sampling_steps}: 1 to {self.num_steps} expected")

    def build(self, width: int, action_space: ActionSpace, rngs: nnx.Rngs) -> "Diffusion":
        return Diffusion(self, width, action_space, rngs=rngs)


class Diffusion(nnx.Module):
    """Reads `PolicyContext.queries`: one read-out a window step gives that step's whole chunk."""

    def __init__(self, config: DiffusionConfig, width: int, action_space: ActionSpace, *, rngs: nnx.Rngs):
        self.config = config
        self.chunk = (action_space.horizon, action_space.action_width)
        self.denoiser = config.denoiser.build(width, action_space, rngs)

    def loss(
        self,
        context: PolicyContext,
        action: Float[Array, "b w h a"],
        action_mask: Bool[Array, "b w h a"],
        *,
        key: Key[Array, ""] | None,
    ) -> Losses:
        """Squared error of the noise, mean over draws and valid targets (times a where `summed`)."""
        time_key, noise_key = jax.random.split(jax.random.key(0) if key is None else key)
        shape = (self.config.num_draws, *action.shape)
        time = jax.random.randint(time_key, shape[:3], 0, self.config.num_steps)
        noise = jax.random.normal(noise_key, shape)
        clean = jnp.where(action_mask, jnp.clip(action, -self.config.limit, self.config.limit), 0.0)
        return self.loss_at(context, clean, action_mask, time, noise)

    def loss_at(
        self,
        context: PolicyContext,
        clean: Float[Array, "b w h a"],
        action_mask: Bool[Array, "b w h a"],
        time: Int[Array, "n b w"],
        noise: Float[Array, "n b w h a"],
    ) -> Losses:
        error = jnp.square(self.predict(context, self.noisy(clean, time, noise), time) - noise)
        weight = action_mask.sum().astype(jnp.float32)
        mean = jnp.where(action_mask, error, 0.0).sum() / jnp.maximum(weight * len(time), 1.0)
        total = mean * self.chunk[1] if self.config.summed else mean
        return Losses(total=total, weight=weight, terms={"noise_mse": mean})

    def noisy(
        self, clean: Float[Array, "*b w h a"], time: Int[Array, "n *b w"], noise: Float[Array, "n *b w h a"]
    ) -> Float[Array, "n *b w h a"]:
        kept = jnp.asarray(self._kept, jnp.float32)[time][..., None, None]
        return jnp.sqrt(kept) * clean + jnp.sqrt(1 - kept) * noise

    def predict(
        self, context: PolicyContext, noisy: Float[Array, "n b w h a"], time: Int[Array, "n b w"]
    ) -> Float[Array, "n b w h a"]:
        assert context.queries is not None, "Diffusion reads PolicyContext.queries"
        condition = jnp.broadcast_to(context.queries, (*time.shape, context.queries.shape[-1]))
        return self.denoiser(noisy, time, condition)

    def sample(self, context: PolicyContext, *, key: Key[Array, ""] | None) -> Float[Array, "b w h a"]:
        return self.samples(context, key=key, count=1)[0]

    def samples(self, context: PolicyContext, *, key: Key[Array, ""] | None, count: int) -> Float[Array, "n b w h a"]:
        """Several draws of the same context. Without a key they are all one."""
        assert context.queries is not None, "Diffusion reads PolicyContext.queries"
        shape = (count, *context.queries.shape[:2], *self.chunk)
        keys = None if key is None else jax.random.split(key, self.config.num_steps + 1)
        start = jnp.zeros(shape) if keys is None else jax.random.normal(keys[-1], shape)
        if self.config.sampler == "ddim":
            return self._ddim(context, start)
        return self._ddpm(context, start, keys)

    def _ddpm(
        self, context: PolicyContext, noisy: Float[Array, "n b w h a"], keys: Key[Array, "t"] | None
    ) -> Float[Array, "n b w h a"]:
        config, beta = self.config, betas(self.config.num_steps)
        added = np.sqrt(beta) * (np.arange(len(beta)) > 0)
        factors = np.stack([1 / np.sqrt(1 - beta), beta / np.sqrt(1 - self._kept), added])

        def step(x: Array, inputs: tuple) -> tuple[Array, None]:
            time, (outer, inner, deviation), key = inputs
            noise = self.predict(context, x, jnp.broadcast_to(time, x.shape[:3]))
            x = outer * (x - inner * noise)
            if key is not None:
                x = x + deviation * jax.random.normal(key, x.shape)
            return jnp.clip(x, -config.limit, config.limit), None

        order = np.arange(config.num_steps)[::-1]
        numbers = jnp.asarray(factors[:, order].T, jnp.float32)
        return jax.lax.scan(step, noisy, (order, numbers, None if keys is None else keys[order]))[0]

    def _ddim(self, context: PolicyContext, noisy: Float[Array, "n b w h a"]) -> Float[Array, "n b w h a"]:
        config = self.config
        count = config.num_sampling_steps or config.num_steps
        times = np.arange(count)[::-1] * (config.num_steps // count)
        before = np.concatenate([self._kept[times[1:]], [1.0]])
        kept = self._kept[times]
        factors = np.stack([np.sqrt(kept), np.sqrt(1 - kept), np.sqrt(before), np.sqrt(1 - before)], axis=1)

        def step(x: Array, inputs: tuple) -> tuple[Array, None]:
            time, (signal, spread, next_signal, next_spread) = inputs
            noise = self.predict(context, x, jnp.broadcast_to(time, x.shape[:3]))
            clean = jnp.clip((x - spread * noise) / signal, -config.limit, config.limit)
            return next_signal * clean + next_spread * noise, None

        return jax.lax.scan(step, noisy, (times, jnp.asarray(factors, jnp.float32)))[0]

    @property
    def _kept(self) -> Float[np.ndarray, "t"]:
        """abar: the share of the signal's power that is left."""
        return np.cumprod(1 - betas(self.config.num_steps))
