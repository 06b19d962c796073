"""Octo in PyTorch: a transformer over the sentence and each step's pictures, in blocks of steps; a diffusion head.

Axes: b batch, w window, y x pixels, t text tokens, n tokens of a picture, s the sequence, h horizon, a action, d width.
Source: Octo (arXiv 2405.12213). Everything that this folder needs is in it.
"""

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .clip_text_vla import clip_text, token_features
from .configuration_octo import OctoConfig
from .diffusion_vla import Diffusion
from .modeling_vla import VlaModel
from .transformer_vla import Encoder


class StandardizedConv(nn.Conv2d):
    """Its kernel has mean 0 and deviation 1 for each channel out."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.float()
        weight = weight - weight.mean(dim=(1, 2, 3), keepdim=True)
        weight = weight / (weight.std(dim=(1, 2, 3), keepdim=True, unbiased=False) + 1e-5)
        return functional.conv2d(x, weight.to(x.dtype), self.bias, self.stride, self.padding)


class Stem(nn.Module):
    def __init__(self, config: dict[str, Any]):
        super().__init__()
        pairs = list(itertools.pairwise([3, *config["widths"]]))
        self.convs = nn.ModuleList(StandardizedConv(i, o, 3, stride=2, padding=1) for i, o in pairs)
        self.norms = nn.ModuleList(nn.GroupNorm(config["num_groups"], o, eps=1e-6) for _, o in pairs)
        self.out = nn.Conv2d(config["widths"][-1], config["out_width"], 1)

    def forward(self, images: Tensor) -> Tensor:
        """[b, n, d] of uint8 RGB pictures [b, y, x, 3]."""
        x = (images.float() / 127.5 - 1.0).permute(0, 3, 1, 2).to(self.out.weight.dtype)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = functional.relu(norm(conv(x)))
        return self.out(x).flatten(2).transpose(1, 2)


class ResidualBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(functional.silu(self.fc1(self.norm(x))))


class Denoiser(nn.Module):
    """Fourier features of the step, beside the read-out and the noisy chunk, through a residual MLP."""

    def __init__(self, config: dict[str, Any], condition_width: int, chunk: tuple[int, int]):
        super().__init__()
        time, hidden, size = config["time_width"], config["hidden_width"], math.prod(chunk)
        self.frequencies = nn.Parameter(torch.zeros(time // 2))
        self.time_fc1 = nn.Linear(time, 2 * time)
        self.time_fc2 = nn.Linear(2 * time, time)
        self.fc_in = nn.Linear(time + condition_width + size, hidden)
        self.blocks = nn.ModuleList(ResidualBlock(hidden) for _ in range(config["num_blocks"]))
        self.fc_out = nn.Linear(hidden, size)

    def forward(self, noisy: Tensor, time: Tensor, readouts: Tensor) -> Tensor:
        angles = (2 * math.pi * time.float())[..., None] * self.frequencies.float()
        features = torch.cat([angles.cos(), angles.sin()], dim=-1).to(readouts.dtype)
        features = self.time_fc2(functional.silu(self.time_fc1(features)))
        x = self.fc_in(torch.cat([features, readouts, noisy.flatten(-2).to(readouts.dtype)], dim=-1))
        for block in self.blocks:
            x = block(x)
        return self.fc_out(functional.silu(x)).view_as(noisy).float()


class OctoModel(VlaModel):
    config_class = OctoConfig
    _no_split_modules = ("Block", "CLIPEncoderLayer")
    generator: torch.Generator | None = None
    """Set: the noise that actions are made of is drawn from it; None: they begin at none, the same every time."""

    def __init__(self, config: OctoConfig):
        super().__init__(config)
        width, steps = config.trunk["width"], config.max_window
        self.clip = clip_text(config.clip)
        self.stems = nn.ModuleDict({slot: Stem(config.stem) for slot in config.cameras})
        self.text_projection = nn.Linear(config.clip["projection_width"], width)
        self.text_positions = nn.Parameter(torch.zeros(config.text_length, width))
        self.projections = nn.ModuleDict({slot: nn.Linear(config.stem["out_width"], width) for slot in config.cameras})
        self.positions = nn.ParameterDict(
            {slot: nn.Parameter(torch.zeros(steps, config.num_tokens(slot), width)) for slot in config.cameras}
        )
        self.readouts = nn.Parameter(torch.zeros(steps, config.num_readouts, width))
        self.trunk = Encoder({**config.trunk, "activation": "gelu_tanh", "epsilon": 1e-6}, width)
        self.trunk_norm = nn.LayerNorm(width, eps=1e-6)
        self.action_head = Denoiser(config.head["denoiser"], width, config.chunk_shape)
        self.post_init()

    def _stages(self, observation: dict[str, Any]) -> dict[str, Tensor]:
        text = token_features(self.clip, observation["input_ids"], observation["attention_mask"])
        stages = {"text_tokens": self.text_projection(text) + self.text_positions}
        for slot in self.config.cameras:
            stages[f"picture_tokens/{slot}"] = self._picture_tokens(observation["images"][slot], slot)
        window = observation["timestep_mask"].shape[1]
        x = self.trunk_norm(self.trunk(self._sequence(stages, window), mask=self._mask(observation)))
        steps = x[:, self.config.text_length :].unflatten(1, (window, -1))
        stages["readouts"] = steps[:, :, -self.config.num_readouts :].mean(dim=2)
        diffusion, chunk = Diffusion(self.config.head), self.config.chunk_shape
        stages["actions"] = diffusion.sample(self.action_head, stages["readouts"], chunk, self.generator)
        return stages

    def _loss(self, stages: dict[str, Tensor], action: Tensor, action_mask: Tensor) -> Tensor:
        """Of the noise that is drawn and added to the targets."""
        return Diffusion(self.config.head).loss(self.action_head, stages["readouts"], action, action_mask)

    def _picture_tokens(self, images: Tensor, slot: str) -> Tensor:
        tokens = self.projections[slot](self.stems[slot](images.flatten(0, 1)))
        return tokens.unflatten(0, images.shape[:2]) + self.positions[slot][: images.shape[1]]

    def _sequence(self, stages: dict[str, Tensor], window: int) -> Tensor:
        """The sentence; then each step's pictures, the sentence again, read-outs."""
        text = stages["text_tokens"]
        groups = [stages[f"picture_tokens/{slot}"] for slot in self.config.cameras]
        if self.config.repeats_text:
            groups.append(text[:, None].expand(-1, window, -1, -1))
        groups.append(self.readouts[:window].expand(len(text), -1, -1, -1))
        return torch.cat([text, torch.cat(groups, dim=2).flatten(1, 2)], dim=1)

    def _mask(self, observation: dict[str, Any]) -> Tensor:
        """bool [b, s, s]: blocks of steps over valid tokens; each token sees itself, so that no row is empty."""
        steps, words = observation["timestep_mask"], observation["attention_mask"]
        valid = [
            (observation["image_masks"][slot] & steps)[..., None].expand(-1, -1, self.config.num_tokens(slot))
            for slot in self.config.cameras
        ]
        if self.config.repeats_text:
            valid.append(words[:, None] & steps[..., None])
        num_observation, num_readouts = sum(group.shape[2] for group in valid), self.config.num_readouts
        valid.append(steps[..., None].expand(-1, -1, num_readouts))
        everything = torch.cat([words, torch.cat(valid, dim=2).flatten(1)], dim=1)
        window, device = steps.shape[1], steps.device
        number = torch.arange(window, device=device).repeat_interleave(num_observation + num_readouts)
        number = torch.cat([torch.full((words.shape[1],), -1, device=device), number])
        is_readout = torch.arange(num_observation + num_readouts, device=device) >= num_observation
        is_readout = torch.cat([torch.zeros_like(words[0]), is_readout.repeat(window)])
        blocks = (number[None] <= number[:, None]) & (~is_readout[None] | is_readout[:, None])
        return (blocks & everything[:, None]) | torch.eye(len(blocks), dtype=torch.bool, device=device)
