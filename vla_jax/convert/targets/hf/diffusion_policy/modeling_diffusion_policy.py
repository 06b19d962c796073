"""Diffusion Policy in PyTorch: a window of pictures and proprio is the condition of a U-Net that denoises a chunk.

Axes: b batch, w window, y x pixels, k keypoints, e width of a camera's feature, c condition, h horizon, a action.
Source: Diffusion Policy (arXiv 2303.04137). Everything that this folder needs is in it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .clip_text_vla import clip_text, sentence_feature
from .configuration_diffusion_policy import DiffusionPolicyConfig
from .diffusion_vla import Diffusion
from .modeling_vla import VlaModel
from .unet_diffusion_policy import Unet

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def conv(in_width: int, out_width: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_width, out_width, size, stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    def __init__(self, in_width: int, width: int, stride: int, group_width: int):
        super().__init__()
        groups = width // group_width
        self.conv1, self.bn1 = conv(in_width, width, 3, stride), nn.GroupNorm(groups, width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.GroupNorm(groups, width)
        changes = stride > 1 or in_width != width
        shortcut = nn.Sequential(conv(in_width, width, 1, stride), nn.GroupNorm(groups, width)) if changes else None
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        found = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(found + (x if self.downsample is None else self.downsample(x)))


class MapFilm(nn.Module):
    """x (1 + gamma) + beta over the channels of a map."""

    def __init__(self, condition_width: int, width: int):
        super().__init__()
        self.scale = nn.Linear(condition_width, width)
        self.shift = nn.Linear(condition_width, width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return x * (1 + self.scale(condition)[..., None, None]) + self.shift(condition)[..., None, None]


class KeypointEncoder(nn.Module):
    """ResNet with group norms (by torchvision's names), then the expected place of each of a few maps."""

    def __init__(self, config: dict[str, Any], condition_width: int | None):
        super().__init__()
        widths, group_width, before = config["widths"], config["group_width"], config["widths"][0]
        self.conv1, self.bn1 = conv(3, before, 7, 2), nn.GroupNorm(before // group_width, before)
        self.layers = nn.ModuleList()
        for number, (width, depth) in enumerate(zip(widths, config["depths"], strict=True)):
            stages = [BasicBlock(before, width, 2 if number else 1, group_width)]
            stages += [BasicBlock(width, width, 1, group_width) for _ in range(depth - 1)]
            self.layers.append(nn.ModuleList(stages))
            before = width
        films = [] if condition_width is None else [MapFilm(condition_width, width) for width in widths]
        self.films = nn.ModuleList(films)
        self.keypoints = nn.Conv2d(widths[-1], config["num_keypoints"], 1)
        self.out = nn.Linear(2 * config["num_keypoints"], config["out_width"])

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        """[b, e] of uint8 RGB pictures [b, y, x, 3]."""
        mean, std = (torch.tensor(numbers, device=images.device) for numbers in IMAGENET)
        pixels = ((images.float() / 255.0 - mean) / std).permute(0, 3, 1, 2)
        x = functional.relu(self.bn1(self.conv1(pixels.to(self.conv1.weight.dtype))))
        x = functional.max_pool2d(x, 3, 2, 1)
        for number, blocks in enumerate(self.layers):
            for block in blocks:
                x = block(x)
            x = x if condition is None else self.films[number](x, condition)
        return self.out(spatial_softmax(self.keypoints(x)).flatten(1).to(x.dtype))


def spatial_softmax(maps: Tensor) -> Tensor:
    """[b, k, 2]: expected column and row, -1..1, of each map of [b, k, rows, columns]; float32."""
    rows, columns = maps.shape[2:]
    weights = torch.softmax(maps.float().flatten(2), dim=-1)
    y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
    return weights @ torch.stack([x.flatten(), y.flatten()], dim=-1).to(maps.device)


class DiffusionPolicyModel(VlaModel):
    config_class = DiffusionPolicyConfig
    _no_split_modules = ("KeypointEncoder", "ModulatedBlock", "CLIPEncoderLayer")
    generator: torch.Generator | None = None
    """Set: the noise that actions are made of is drawn from it; None: they begin at none, the same every time."""

    def __init__(self, config: DiffusionPolicyConfig):
        super().__init__(config)
        self.clip = None if config.clip is None else clip_text(config.clip)
        width = None if config.clip is None else config.clip["projection_width"]
        self.resnets = nn.ModuleDict({slot: KeypointEncoder(config.resnet, width) for slot in config.cameras})
        self.action_head = Unet(config.head["denoiser"], config.condition_width, config.chunk_shape[1])
        self.post_init()

    def _stages(self, observation: dict[str, Any]) -> dict[str, Tensor]:
        stages, parts, mask = {}, [], observation["timestep_mask"]
        if self.clip is not None:
            words = observation["attention_mask"]
            sentence = sentence_feature(self.clip, observation["input_ids"], words)
            stages["sentence"] = sentence * words.any(dim=1, keepdim=True)
        for slot in self.config.cameras:
            images = observation["images"][slot]
            condition = stages["sentence"].repeat_interleave(images.shape[1], dim=0) if self.clip else None
            feature = self.resnets[slot](images.flatten(0, 1), condition).unflatten(0, images.shape[:2])
            stages[f"camera_feature/{slot}"] = feature
            parts.append(feature * (observation["image_masks"][slot] & mask)[..., None])
        parts.append((observation["proprio"] * mask[..., None]).to(parts[0].dtype))
        steps = torch.cat(parts, dim=-1)
        steps = functional.pad(steps, (0, 0, self.config.window - steps.shape[1], 0))
        stages["condition"] = steps.flatten(1)[:, None]
        diffusion, chunk = Diffusion(self.config.head), self.config.chunk_shape
        stages["actions"] = diffusion.sample(self.action_head, stages["condition"], chunk, self.generator)
        return stages

    def _loss(self, stages: dict[str, Tensor], action: Tensor, action_mask: Tensor) -> Tensor:
        """Of the noise that is drawn and added to the targets."""
        return Diffusion(self.config.head).loss(self.action_head, stages["condition"], action, action_mask)
