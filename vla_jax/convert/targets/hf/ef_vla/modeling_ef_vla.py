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
from .transformer_vla import Attention, AttentionPooling, Encoder, activate, causal, sinusoidal

MAX_SCALE = 100.0
MAX_TEMPERATURE = 100.0


class EarlyFusion(nn.Module):
    """Text-aware visual features: softmax(text patches^T / tau) patches, with a temperature tau for each camera."""

    gives_text = True

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.learn_temperature = config["learn_temperature"]
        self.value_positions, self.layout = config["value_positions"], config["position_layout"]
        initial = torch.tensor(config["initial_temperature"])
        if config["temperature"] == "log":
            self.log_scale = nn.Parameter(-initial.log())
        else:
            self.tau = nn.Parameter(initial)

    def forward(self, text: Tensor, patches: Tensor) -> Tensor:
        weights = torch.softmax(text.float() @ patches.float().transpose(1, 2) * self.scale(), dim=-1)
        if self.value_positions:
            patches = patches + sinusoidal(*patches.shape[1:], like=patches, layout=self.layout)
        return weights.to(patches.dtype) @ patches

    def scale(self) -> Tensor:
        """1 / tau. The clip of its logarithm lets gradients through."""
        if hasattr(self, "tau"):
            return 1.0 / self._trained(self.tau).clamp(0.0, MAX_TEMPERATURE)
        log_scale = self._trained(self.log_scale)
        clipped = log_scale.clamp(max=math.log(MAX_SCALE))
        return torch.exp(log_scale + (clipped - log_scale).detach())

    def _trained(self, parameter: Tensor) -> Tensor:
        return parameter.float() if self.learn_temperature else parameter.float().detach()


class CrossFusion(Attention):
    """Learned cross-attention from text into patches."""

    gives_text = True

    def __init__(self, config: dict[str, Any]):
        super().__init__(config["width"], config["num_heads"])

    def forward(self, text: Tensor, patches: Tensor) -> Tensor:
        return super().forward(text, patches)


class LateFusion(nn.Module):
    """Text and patches are pooled apart."""

    gives_text = False

    def __init__(self, config: dict[str, Any]):
        super().__init__()

    def forward(self, text: Tensor, patches: Tensor) -> Tensor:
        return patches


FUSIONS = {"EarlyFusionConfig": EarlyFusion, "CrossFusionConfig": CrossFusion, "LateFusionConfig": LateFusion}


class LinearPooling(nn.Module):
    """One linear layer over the mean of the tokens."""

    def __init__(self, config: dict[str, Any], token_width: int):
        super().__init__()
        self.projection = nn.Linear(token_width, config["out_width"])

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            return self.projection(tokens.mean(dim=1))
        weights = mask[..., None].to(tokens.dtype)
        return self.projection((tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1))


POOLINGS = {"AttentionPoolingConfig": AttentionPooling, "LinearPoolingConfig": LinearPooling}


class ProprioEncoder(nn.Module):
    def __init__(self, config: dict[str, Any], in_width: int):
        super().__init__()
        widths = [in_width, *config["hidden_widths"], config["out_width"]]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(widths))

    def forward(self, proprio: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            proprio = functional.relu(layer(proprio))
        return self.layers[-1](proprio)


class ActionHead(nn.Module):
    def __init__(self, config: EfVlaConfig):
        super().__init__()
        self.chunk, self.activation = tuple(config.chunk_shape), config.head["activation"]
        widths = [config.trunk_width, *config.head["hidden_widths"]]
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(widths))
        self.out = nn.Linear(widths[-1], math.prod(self.chunk))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = activate(layer(x), self.activation)
        return self.out(x).unflatten(-1, self.chunk).float()


class EfVlaModel(VlaModel):
    config_class = EfVlaConfig
    _no_split_modules = ("Block", "PoolingBlock")

    def __init__(self, config: EfVlaConfig):
        super().__init__(config)
        self.clip = Clip(config.clip, config.clip_features)
        scratch, width, trunk = config.scratch_vision, config.clip["projection_width"], config.trunk
        self.scratch_vision = ProjectedVision(scratch["vit"], width) if scratch else None
        fusion, image_pooling = FUSIONS[config.fusion["type"]], POOLINGS[config.image_pooling["type"]]
        self.fusion = nn.ModuleDict({slot: fusion(config.fusion) for slot in config.cameras})
        self.image_pooling = nn.ModuleDict(
            {slot: image_pooling(config.image_pooling, width) for slot in config.cameras}
        )
        text = config.text_pooling
        self.text_pooling = POOLINGS[text["type"]](text, width) if text else None
        proprio_width = len(config.action_space["proprio"])
        self.proprio_encoder = ProprioEncoder(config.proprio, proprio_width) if config.proprio else None
        self.trunk_projection = nn.Linear(config.step_width, config.trunk_width) if trunk["width"] else nn.Identity()
        self.trunk = Encoder(trunk, config.trunk_width)
        self.trunk_norm = (
            nn.LayerNorm(config.trunk_width, eps=trunk["epsilon"]) if trunk["final_norm"] else nn.Identity()
        )
        self.trunk_dropout = nn.Dropout(trunk["dropout_rate"])
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
        text_mask = self._text_mask(observation["attention_mask"])
        stages["text_features"] = text
        parts = []
        if self.proprio_encoder is not None:
            parts.append(self.proprio_encoder(observation["proprio"].to(text.dtype)))
        for slot in self.config.cameras:
            images = observation["images"][slot].flatten(0, 1)
            patches = (self.scratch_vision or self.clip).patch_features(images)
            fused = self.fusion[slot](text.repeat_interleave(window, dim=0), patches)
            mask = text_mask if self.fusion[slot].gives_text else None
            mask = None if mask is None else mask.repeat_interleave(window, dim=0)
            pooled = self.image_pooling[slot](fused, mask).unflatten(0, (batch, window))
            parts.append(pooled * observation["image_masks"][slot][..., None].to(text.dtype))
            stages |= {f"patch_features/{slot}": patches, f"fused_features/{slot}": fused}
        if self.text_pooling is not None:
            parts.append(self.text_pooling(text, text_mask)[:, None].expand(-1, window, -1))
        return torch.cat(parts, dim=-1)

    def _text_mask(self, mask: Tensor) -> Tensor | None:
        """The text tokens that are pooled; None: all that there are."""
        if self.config.text_mask == "all" or self.clip.is_summary:
            return None
        if self.config.text_mask == "valid":
            return mask
        place = torch.arange(mask.shape[1], device=mask.device)
        words = mask & (place > 0) & (place < mask.sum(dim=1, keepdim=True) - 1)
        return torch.where(words.any(dim=1, keepdim=True), words, mask)

    def _trunk(self, tokens: Tensor, timestep_mask: Tensor) -> Tensor:
        """Causal over valid steps; a padded step sees itself, too, so that it is finite."""
        settings, positions = self.config.trunk, None
        x = self.trunk_projection(tokens)
        if settings["positions"] == "sinusoidal":
            x = x + sinusoidal(*x.shape[1:], like=x, layout=settings["position_layout"])
        else:
            steps = torch.arange(x.shape[1], device=x.device)
            positions = steps if settings["positions"] == "rotary" else -steps
        itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        x = self.trunk(self.trunk_dropout(x), mask=causal(timestep_mask) | itself, positions=positions)
        return self.trunk_norm(x)
