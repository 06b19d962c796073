"""Actions out of noise: a denoiser takes it out step by step (DDPM, DDIM; cosine schedule).

Axes: b batch, w window, h horizon, a action, d width of a read-out.
Source: Ho et al. 2020, Song et al. 2021, Nichol and Dhariwal 2021; Octo and Diffusion Policy for their use.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(noisy [b, w, h, a], step [b, w], read-outs [b, w, d]) to the noise, float32."""


def betas(num_steps: int) -> np.ndarray:
    times = np.arange(num_steps + 1) / num_steps
    kept = np.cos((times + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - kept[1:] / kept[:-1], 0.999)


class Diffusion:
    def __init__(self, config: dict[str, Any]):
        """Args: config: `head` of config.json."""
        self.config = config
        self.betas = betas(config["num_steps"])
        self.kept = np.cumprod(1 - self.betas)

    def loss(self, denoise: Denoise, readouts: Tensor, action: Tensor, action_mask: Tensor) -> Tensor:
        """Squared error of noise that is drawn, mean over valid targets, times a where the config says `summed`."""
        limit, num_steps = self.config["limit"], self.config["num_steps"]
        clean = torch.where(action_mask, action.clamp(-limit, limit), 0.0)
        total = torch.zeros((), device=action.device)
        for _ in range(self.config["num_draws"]):
            time = torch.randint(0, num_steps, action.shape[:2], device=action.device)
            kept = torch.from_numpy(self.kept).to(clean)[time][..., None, None]
            noise = torch.randn_like(clean)
            error = denoise(kept.sqrt() * clean + (1 - kept).sqrt() * noise, time, readouts) - noise
            total = total + torch.where(action_mask, error.square(), 0.0).sum()
        mean = total / (action_mask.sum() * self.config["num_draws"]).clamp(min=1)
        return mean * action.shape[-1] if self.config["summed"] else mean

    @torch.no_grad()
    def sample(
        self, denoise: Denoise, readouts: Tensor, chunk: tuple[int, int], generator: torch.Generator | None = None
    ) -> Tensor:
        """float32 [b, w, h, a]. Without a generator nothing is drawn: it begins at zero and adds no noise."""
        x = self._noise((*readouts.shape[:2], *chunk), readouts.device, generator)
        steps = self._ddim() if self.config["sampler"] == "ddim" else self._ddpm()
        for time, *factors in steps:
            noise = denoise(x, torch.full(x.shape[:2], time, device=x.device), readouts)
            x = self._step(x, noise, factors, generator)
        return x

    def _step(self, x: Tensor, noise: Tensor, factors: list[float], generator: torch.Generator | None) -> Tensor:
        limit = self.config["limit"]
        if self.config["sampler"] == "ddim":
            signal, spread, next_signal, next_spread = factors
            clean = ((x - spread * noise) / signal).clamp(-limit, limit)
            return next_signal * clean + next_spread * noise
        outer, inner, deviation = factors
        x = outer * (x - inner * noise)
        return (x + deviation * self._noise(x.shape, x.device, generator)).clamp(-limit, limit)

    def _ddpm(self) -> list[tuple]:
        added = np.sqrt(self.betas) * (np.arange(len(self.betas)) > 0)
        factors = np.stack([1 / np.sqrt(1 - self.betas), self.betas / np.sqrt(1 - self.kept), added], axis=1)
        return [(time, *factors[time].tolist()) for time in reversed(range(len(self.betas)))]

    def _ddim(self) -> list[tuple]:
        count = self.config["num_sampling_steps"] or self.config["num_steps"]
        times = np.arange(count)[::-1] * (self.config["num_steps"] // count)
        kept, before = self.kept[times], np.concatenate([self.kept[times[1:]], [1.0]])
        factors = np.stack([np.sqrt(kept), np.sqrt(1 - kept), np.sqrt(before), np.sqrt(1 - before)], axis=1)
        return [(int(time), *row.tolist()) for time, row in zip(times, factors, strict=True)]

    @staticmethod
    def _noise(shape: Any, device: Any, generator: torch.Generator | None) -> Tensor:
        if generator is None:
            return torch.zeros(shape, device=device)
        return torch.randn(shape, generator=generator, device=generator.device).to(device)
