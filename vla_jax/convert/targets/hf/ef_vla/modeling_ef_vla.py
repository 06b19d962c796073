"""EF-VLA in PyTorch: frozen CLIP, text-aware visual features, one token a time step, a causal transformer.

Axes: b batch, w window (time steps, padded on the right), y x pixels, t text tokens, n patches, d shared width of
text and vision, h horizon, a action, p proprio.
Source: EF-VLA section 3 (published as OTTER, arXiv 2503.03734). Everything that this folder needs is in it.
"""

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .clip_ef_vla import Clip, ProjectedVision
from .configuration_ef_vla import EfVlaConfig
from .modeling_vla import VlaModel
from .transformer_vla import AttentionPooling, Encoder, causal, sinusoidal

MAX_SCALE = 100.0


class EarlyFusion(nn.Module):
    """Text-aware visual features: softmax(text patches^T / tau) patches, with a trained temperature tau >= 0.01."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.learn_temperature = config["learn_temperature"]
        self.value_positions = config["value_positions"]
        self.log_scale = nn.Parameter(torch.tensor(math.log(1.0 / config["initial_temperature"])))

    def forward(self, text: Tensor, patches: Tensor) -> Tensor:
        log_scale = self.log_scale.float()
        log_scale = log_scale if self.learn_temperature else log_scale.detach()
        clipped = log_scale.clamp(max=math.log(MAX_SCALE))
        scale = torch.exp(log_scale + (clipped - log_scale).detach())
        weights = torch.softmax(text.float() @ patches.float().transpose(1, 2) * scale, dim=-1)
        if self.value_positions:
            patches = patches + sinusoidal(*patches.shape[1:], like=patches)
        return weights.to(patches.dtype) @ patches


class ProprioEncoder(nn.Module):
    def __init__(self, config: EfVlaConfig):
        super().__init__()
        widths = [len(config.action_space["proprio"]), *config.proprio_hidden_widths, config.proprio_width]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(widths))

    def forward(self, proprio: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            proprio = functional.relu(layer(proprio))
        return self.layers[-1](proprio)


class ActionHead(nn.Module):
    def __init__(self, config: EfVlaConfig):
        super().__init__()
        self.chunk = tuple(config.chunk_shape)
        widths = [config.step_width, *config.head["hidden_widths"]]
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(widths))
        self.out = nn.Linear(widths[-1], math.prod(self.chunk))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = functional.gelu(layer(x), approximate="tanh")
        return self.out(x).unflatten(-1, self.chunk).float()


class EfVlaModel(VlaModel):
    config_class = EfVlaConfig
    _no_split_modules = ("Block", "PoolingBlock")

    def __init__(self, config: EfVlaConfig):
        super().__init__(config)
        self.clip = Clip(config.clip, config.last_attention)
        scratch, width = config.scratch_vision, config.clip["projection_width"]
        self.scratch_vision = ProjectedVision(scratch["vit"], width) if scratch else None
        self.fusion = nn.ModuleDict({slot: EarlyFusion(config.fusion) for slot in config.cameras})
        self.image_pooling = nn.ModuleDict(
            {slot: AttentionPooling(config.image_pooling, width) for slot in config.cameras}
        )
        self.text_pooling = AttentionPooling(config.text_pooling, width)
        self.proprio_encoder = ProprioEncoder(config)
        self.trunk = Encoder(config.trunk, config.step_width)
        self.trunk_norm = nn.LayerNorm(config.step_width)
        self.trunk_dropout = nn.Dropout(config.trunk["dropout_rate"])
        self.action_head = ActionHead(config)
        self.post_init()

    def _disturbed(self, observation: dict[str, Any]) -> dict[str, Any]:
        """With the noise on proprio that training adds."""
        proprio = observation["proprio"]
        return observation | {"proprio": proprio + self.config.proprio_noise * torch.randn_like(proprio)}

    def _stages(self, observation: dict[str, Any]) -> dict[str, Tensor]:
        stages: dict[str, Tensor] = {}
        stages["step_tokens"] = self._step_tokens(observation, stages)
        stages["trunk_output"] = self._trunk(stages["step_tokens"], observation["timestep_mask"])
        stages["actions"] = self.action_head(stages["trunk_output"])
        return stages

    def _step_tokens(self, observation: dict[str, Any], stages: dict[str, Tensor]) -> Tensor:
        """One token a step: proprio, each camera's text-aware feature, and the text, side by side."""
        batch, window = observation["timestep_mask"].shape
        text = self.clip.text_features(observation["input_ids"], observation["attention_mask"])
        stages["text_features"] = text
        parts = [self.proprio_encoder(observation["proprio"].to(text.dtype))]
        for slot in self.config.cameras:
            images = observation["images"][slot].flatten(0, 1)
            patches = (self.scratch_vision or self.clip).patch_features(images)
            fused = self.fusion[slot](text.repeat_interleave(window, dim=0), patches)
            pooled = self.image_pooling[slot](fused).unflatten(0, (batch, window))
            parts.append(pooled * observation["image_masks"][slot][..., None].to(text.dtype))
            stages |= {f"patch_features/{slot}": patches, f"fused_features/{slot}": fused}
        text_mask = observation["attention_mask"] if self.config.mask_text_padding else None
        parts.append(self.text_pooling(text, text_mask)[:, None].expand(-1, window, -1))
        return torch.cat(parts, dim=-1)

    def _trunk(self, tokens: Tensor, timestep_mask: Tensor) -> Tensor:
        """Causal over valid steps; a padded step sees itself, too, so that it is finite."""
        itself = torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
        x = self.trunk_dropout(tokens + sinusoidal(*tokens.shape[1:], like=tokens))
        return self.trunk_norm(self.trunk(x, mask=causal(timestep_mask) | itself))
