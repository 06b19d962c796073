"""EF-VLA in PyTorch: frozen CLIP, text-aware visual features, one token a time step, a causal transformer.

Axes: b batch, w window (time steps, padded on the right), y x pixels, t text tokens, n patches, d shared width of
text and vision, h horizon, a action, p proprio.
Source: EF-VLA section 3 (published as OTTER, arXiv 2503.03734). Everything that this folder needs is in it.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_ef_vla import EfVlaConfig
from .processing_ef_vla import EfVlaProcessor
from .transformer_ef_vla import AttentionPooling, Clip, Encoder, ProjectedVision, causal, sinusoidal

MAX_SCALE = 100.0


@dataclass
class EfVlaOutput(ModelOutput):
    """What `forward` gives."""

    loss: Tensor | None = None
    """Mean |predicted - action| over the valid targets, in normalised units."""
    actions: Tensor | None = None
    """float32 [b, w, h, a], normalised: each window step's chunk."""


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


class EfVlaModel(PreTrainedModel):
    """Images, proprio and a sentence to a chunk of actions."""

    config_class = EfVlaConfig
    main_input_name = "images"
    _no_split_modules = ("Block", "PoolingBlock")
    _supports_sdpa = True

    def __init__(self, config: EfVlaConfig):
        super().__init__(config)
        self.processor: EfVlaProcessor | None = None
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

    # ---- loading and saving

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As transformers', but a missing, unexpected or mis-shaped tensor is an error, never random weights."""
        strict = kwargs | {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = super().from_pretrained(path, *args, **strict)
        if wrong := {kind: sorted(map(str, names)) for kind, names in info.items() if names}:
            raise ValueError(f"{path}: the weights do not fit this model: {wrong}")
        model.processor = EfVlaProcessor.from_pretrained(path, **kwargs)
        model.freeze()
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.processor is not None:
            self.processor.save_pretrained(save_directory)

    def freeze(self) -> None:
        """Freezes what was frozen in pretraining; `requires_grad_(True)` undoes it."""
        for name, parameter in self.named_parameters():
            if name.startswith(tuple(self.config.frozen)):
                parameter.requires_grad_(False)

    # ---- computing

    def forward(
        self,
        images: dict[str, Tensor],
        proprio: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_masks: dict[str, Tensor] | None = None,
        timestep_mask: Tensor | None = None,
        action: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> EfVlaOutput:
        """All that the processor gives for a batch of windows, and optionally the targets.

        Args:
            images: by camera slot, uint8 RGB [b, w, y, x, 3].
            proprio: [b, w, p], normalised.
            input_ids: [b, t].
            attention_mask: bool [b, t]; False: padding on the right.
            image_masks: by camera slot, bool [b, w]; False: no such picture.
            timestep_mask: bool [b, w]; False: padding on the right.
            action: the targets [b, w, h, a], normalised.
            action_mask: bool [b, w, h, a]; False: no target there.
        """
        observation = self._complete(images, proprio, input_ids, attention_mask, image_masks, timestep_mask)
        if self.training and self.config.proprio_noise:
            observation["proprio"] = proprio + self.config.proprio_noise * torch.randn_like(proprio)
        actions = self._stages(observation)["actions"]
        loss = None
        if action is not None:
            valid = torch.ones_like(action, dtype=torch.bool) if action_mask is None else action_mask
            error = torch.where(valid, (actions - action).abs(), 0.0)
            loss = error.sum() / valid.sum().clamp(min=1)
        return EfVlaOutput(loss=loss, actions=actions)

    @torch.no_grad()
    def predict_action(
        self,
        images: dict[str, Any],
        proprio: Any,
        instruction: str,
        unnorm_key: str | None = None,
    ) -> np.ndarray:
        """One observation to its chunk of actions, float32 [h, a] in the units of the action space.

        Args:
            images: by camera slot, a picture (PIL, or uint8 RGB [y, x, 3] of any size), or a list of up to `window`
                of them, oldest first; None, or no entry: that camera is missing.
            proprio: [p], or [w, p] with as many rows as there are pictures. Not normalised.
            instruction: the task in words.
            unnorm_key: the dataset whose statistics apply; may be left out where there is only one.
        """
        if self.processor is None:
            raise ValueError("predict_action needs the processor that from_pretrained loads; this model has none")
        batch = self.processor(images, proprio, instruction, unnorm_key)
        training = self.training
        self.eval()
        try:
            actions = self(**self.processor.to(batch, self.device)).actions
        finally:
            self.train(training)
        chunk = self.processor.unnormalize_action(actions[0, -1].cpu().numpy(), unnorm_key)
        if not np.isfinite(chunk).all():
            raise ValueError("the predicted actions are not finite; do not run them on a robot")
        return chunk

    @torch.no_grad()
    def stages(self, **observation: Any) -> dict[str, Tensor]:
        """Intermediate results by name, in the order of computation: what this export was compared with JAX by."""
        return self._stages(self._complete(**observation))

    def _complete(self, images, proprio, input_ids, attention_mask, image_masks=None, timestep_mask=None):
        """The observation with all its masks, checked."""
        cameras = self.config.cameras
        if sorted(images) != sorted(cameras):
            raise ValueError(f"images of {sorted(images)}; this model reads {sorted(cameras)}")
        every = torch.ones(proprio.shape[:2], dtype=torch.bool, device=proprio.device)
        if every.shape[1] > self.config.window:
            raise ValueError(f"a window of {every.shape[1]} steps; the model was trained with {self.config.window}")
        image_masks = image_masks or {}
        return {
            "images": images,
            "image_masks": {slot: image_masks.get(slot, every) for slot in cameras},
            "proprio": proprio,
            "timestep_mask": every if timestep_mask is None else timestep_mask,
            "input_ids": input_ids,
            "attention_mask": attention_mask.bool(),
        }

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
