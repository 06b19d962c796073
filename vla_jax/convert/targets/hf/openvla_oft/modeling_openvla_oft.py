"""OpenVLA-OFT in PyTorch: OpenVLA's parts, the whole chunk in one pass, continuous actions.

Axes: b batch, m picture tokens, n text tokens, q = h * a action slots, h horizon, a action, p proprio, d width.
Source: OpenVLA-OFT (arXiv 2502.19645). Everything that this folder needs is in it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .configuration_openvla_oft import OpenvlaOftConfig
from .modeling_vla import VlaModel
from .prismatic_vla import Films, Prismatic, outputs_before


class ProprioProjector(nn.Module):
    def __init__(self, in_width: int, width: int):
        super().__init__()
        self.fc1 = nn.Linear(in_width, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, proprio: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(proprio)))


class ResidualLayer(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + functional.relu(self.linear(self.norm(x)))


class ActionHead(nn.Module):
    def __init__(self, config: OpenvlaOftConfig):
        super().__init__()
        self.chunk = config.chunk_shape
        in_width, hidden = self.chunk[1] * config.text_width, config.head["hidden_width"]
        self.in_norm = nn.LayerNorm(in_width)
        self.fc_in = nn.Linear(in_width, hidden)
        self.blocks = nn.ModuleList(ResidualLayer(hidden) for _ in range(config.head["num_blocks"]))
        self.out_norm = nn.LayerNorm(hidden)
        self.fc_out = nn.Linear(hidden, self.chunk[1])

    def forward(self, readouts: Tensor) -> Tensor:
        """[b, q, d] to [b, 1, h, a]."""
        x = readouts.reshape(len(readouts), 1, self.chunk[0], -1)
        x = functional.relu(self.fc_in(self.in_norm(x)))
        for block in self.blocks:
            x = block(x)
        return self.fc_out(self.out_norm(x)).float()


class OpenvlaOftModel(VlaModel):
    config_class = OpenvlaOftConfig
    _no_split_modules = ("TowerBlock", "LlamaDecoderLayer")

    def __init__(self, config: OpenvlaOftConfig):
        super().__init__(config)
        width, proprio_width = config.text_width, len(config.action_space["proprio"])
        self.vlm = Prismatic(config.vlm)
        self.film = Films(config.vlm["vision"], width) if config.film else None
        self.proprio_projector = ProprioProjector(proprio_width, width) if config.reads_proprio else None
        self.action_head = ActionHead(config)
        self.post_init()

    def _stages(self, observation: dict[str, Any]) -> dict[str, Tensor]:
        ids, text = observation["input_ids"], observation["attention_mask"]
        end = self.vlm.words(torch.full((len(ids), 1), self.config.end_id, device=ids.device))
        stages = self._pictures(observation, end)
        tokens = [stages[f"picture_tokens/{slot}"] for slot in self.config.cameras]
        masks = [observation["image_masks"][slot][:, -1:] for slot in self.config.cameras]
        if self.proprio_projector is not None:
            token = self.proprio_projector(observation["proprio"][:, -1:].to(end.dtype))
            stages["proprio_token"] = token
            tokens, masks = [*tokens, token], [*masks, torch.ones_like(masks[0])]
        seen = torch.cat([mask.expand(token.shape[:2]) for mask, token in zip(masks, tokens, strict=True)], dim=1)
        x, valid = self.vlm.prompt(ids, text, torch.cat(tokens, dim=1), seen)
        num_slots = self.config.chunk_shape[0] * self.config.chunk_shape[1]
        slots = torch.zeros(len(x), num_slots, x.shape[-1], dtype=x.dtype, device=x.device)
        everything = functional.pad(valid, (0, num_slots + 1), value=True)
        outputs, _ = self.vlm.read(torch.cat([x, slots, end], dim=1), everything, is_causal=False)
        stages["readouts"] = outputs_before(outputs, valid, num_slots)
        stages["actions"] = self.action_head(stages["readouts"])
        return stages

    def _pictures(self, observation: dict[str, Any], end: Tensor) -> dict[str, Tensor]:
        condition = None
        if self.film is not None:  # the mean embedding of prompt and end
            valid = observation["attention_mask"]
            words = torch.cat([self.vlm.words(observation["input_ids"], valid), end], dim=1)
            counts = functional.pad(valid, (0, 1), value=True)[..., None]
            condition = (torch.where(counts, words, 0).float().sum(dim=1) / counts.sum(dim=1)).to(words.dtype)
        return {
            f"picture_tokens/{slot}": self.vlm.picture_tokens(observation["images"][slot][:, -1], self.film, condition)
            for slot in self.config.cameras
        }
