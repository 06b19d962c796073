"""The denoiser of Diffusion Policy: a U-Net over a chunk's steps. Names are those of its published code.

Axes: b batch, h horizon, a action, c condition. Inside, channels stand before steps.
"""

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvBlock(nn.Module):
    def __init__(self, in_width: int, out_width: int, config: dict[str, Any]):
        super().__init__()
        size = config["kernel_size"]
        self.block = nn.Sequential(
            nn.Conv1d(in_width, out_width, size, padding=size // 2),
            nn.GroupNorm(config["num_groups"], out_width),
            nn.Mish(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class ModulatedBlock(nn.Module):
    """Two convolutions, the first's output scaled and shifted by the condition."""

    def __init__(self, in_width: int, out_width: int, condition_width: int, config: dict[str, Any]):
        super().__init__()
        self.blocks = nn.ModuleList([ConvBlock(in_width, out_width, config), ConvBlock(out_width, out_width, config)])
        self.cond_encoder = nn.Sequential(nn.Mish(), nn.Linear(condition_width, 2 * out_width))
        is_same = in_width == out_width
        self.residual_conv = nn.Identity() if is_same else nn.Conv1d(in_width, out_width, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.cond_encoder(condition)[..., None].chunk(2, dim=1)
        return self.blocks[1](scale * self.blocks[0](x) + shift) + self.residual_conv(x)


class Resize(nn.Module):
    def __init__(self, width: int, is_up: bool):
        super().__init__()
        self.conv = nn.ConvTranspose1d(width, width, 4, 2, 1) if is_up else nn.Conv1d(width, width, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Unet(nn.Module):
    def __init__(self, config: dict[str, Any], condition_width: int, action_width: int):
        super().__init__()
        self.time_width, widths = config["time_width"], config["widths"]
        self.multiple = 2 ** (len(widths) - 1)

        def block(in_width: int, out_width: int) -> ModulatedBlock:
            return ModulatedBlock(in_width, out_width, self.time_width + condition_width, config)

        self.diffusion_step_encoder = nn.Sequential(
            nn.Identity(),
            nn.Linear(self.time_width, 4 * self.time_width),
            nn.Mish(),
            nn.Linear(4 * self.time_width, self.time_width),
        )
        pairs = list(itertools.pairwise([action_width, *widths]))
        self.down_modules = nn.ModuleList(
            nn.ModuleList([block(i, o), block(o, o), Resize(o, False) if o != widths[-1] else nn.Identity()])
            for i, o in pairs
        )
        self.mid_modules = nn.ModuleList(block(widths[-1], widths[-1]) for _ in range(2))
        self.up_modules = nn.ModuleList(
            nn.ModuleList([block(2 * o, i), block(i, i), Resize(i, True)]) for i, o in reversed(pairs[1:])
        )
        self.final_conv = nn.Sequential(ConvBlock(widths[0], widths[0], config), nn.Conv1d(widths[0], action_width, 1))

    def forward(self, noisy: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """The noise in `noisy` [b, w, h, a], given steps [b, w] and conditions [b, w, c]; float32."""
        length, shape = noisy.shape[2], noisy.shape
        x = noisy.flatten(0, 1).transpose(1, 2).to(condition.dtype)
        x = functional.pad(x, (0, -length % self.multiple))
        features = self.diffusion_step_encoder(self._time_features(time.flatten()).to(condition.dtype))
        context = torch.cat([features, condition.flatten(0, 1)], dim=-1)
        kept = []
        for first, second, resize in self.down_modules:
            x = second(first(x, context), context)
            kept.append(x)
            x = resize(x)
        for middle in self.mid_modules:
            x = middle(x, context)
        for first, second, resize in self.up_modules:
            x = torch.cat([x, kept.pop()], dim=1)
            x = resize(second(first(x, context), context))
        return self.final_conv(x)[..., :length].transpose(1, 2).reshape(shape).float()

    def _time_features(self, time: Tensor) -> Tensor:
        """Sines, then cosines."""
        half = self.time_width // 2
        numbers = torch.arange(half, dtype=torch.float64) * (-math.log(10_000.0) / (half - 1))
        angles = time.float()[:, None] * numbers.exp().float().to(time.device)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)
